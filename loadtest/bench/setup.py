"""What benchmarks share: their options, alternation, and how figures are told."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeVar

import typer
from sluice.cli.console import CommandFailed, err

from loadtest.load.command import RESULTS
from loadtest.load.targets import Texts
from loadtest.report import machine, terminal

T = TypeVar("T")

Bundle = Annotated[Path, typer.Option(help="The bundle, NAME/VERSION.", exists=True, file_okay=False)]
Data = Annotated[Path, typer.Option(help="Folder of a collection in BEIR layout: real queries and documents.")]
Variant = Annotated[str, typer.Option(help="Graph of the bundle.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="How often each side runs, in turn. (default: 3; quick: 1)")]
Quick = Annotated[bool, typer.Option("--quick", help="A look, not a measurement: does it run?")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the figures.")]
DEFAULT_OUT = RESULTS


@dataclass(frozen=True)
class Setup:
    """How a benchmark runs."""

    name: str
    bundle: Path
    data: Path
    variant: str = "fp32"
    quick: bool = False
    out: Path = RESULTS
    rounds_wanted: int | None = None

    @property
    def rounds(self) -> int:
        """How often each side runs."""
        return self.rounds_wanted or (1 if self.quick else 3)

    @property
    def threads(self) -> int:
        """Cores this process may use, which is what servers take too."""
        return len(os.sched_getaffinity(0))

    def texts(self) -> Texts:
        """The texts of the collection. Raises CommandFailed."""
        return Texts.of(self.data)

    def seconds(self, usual: float) -> float:
        """So long, or a look's length."""
        return min(usual, 2.0) if self.quick else usual

    def tell(self, head: Sequence[str], rows: Sequence[Sequence[str]], figures: Mapping[str, Any]) -> None:
        """Print the table, and write the figures with machine and versions beside them."""
        terminal.show_table(head, rows, title=self.name)
        self.write(figures)

    def write(self, figures: Mapping[str, Any]) -> None:
        """Write the figures with machine and versions beside them."""
        options = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        bundle = json.loads((self.bundle / "bundle.json").read_text())
        served = {key: bundle[key] for key in ("name", "version", "default_variant", "max_token_count")}
        record = {"bench": self.name, "figures": figures, "options": options, "bundle": served, **machine.describe()}
        if self.quick:
            err.print("--quick: these figures only show that it runs", style="yellow")
        terminal.write_json(self.out / f"bench-{self.name}{'-quick' if self.quick else ''}.json", record)


def alternate(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each side gave in each round, the sides in turn: A B A B, so that a machine that slows down slows both."""
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            err.print(f"  round {number + 1}/{rounds}: {name}", style="dim")
            results[name].append(side())
    return results


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of one side ÷ the other in the same round."""
    return median(a / b for a, b in zip(above, below, strict=True))


def enough(texts: Sequence[T], wanted: int, what: str) -> list[T]:
    """The first so many texts. Raises CommandFailed when there are fewer than a tenth of them."""
    if len(texts) < wanted / 10:
        raise CommandFailed(f"expected a collection of about {wanted} {what} or more, got {len(texts)}")
    return list(texts[:wanted])
