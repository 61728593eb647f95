"""Shared options of the benchmarks, alternation of sides, and output of figures."""

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
Variant = Annotated[str, typer.Option(help="Graph of the bundle to use.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Runs of each side, in turn. (default: 3; quick: 1)")]
Quick = Annotated[bool, typer.Option("--quick", help="Quick check that it runs, not a measurement.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the figures.")]
DEFAULT_OUT = RESULTS


@dataclass(frozen=True)
class Setup:
    """Options of a benchmark run."""

    name: str
    bundle: Path
    data: Path
    variant: str = "fp32"
    quick: bool = False
    out: Path = RESULTS
    rounds_wanted: int | None = None

    @property
    def rounds(self) -> int:
        """Number of runs of each side."""
        return self.rounds_wanted or (1 if self.quick else 3)

    @property
    def threads(self) -> int:
        """Number of cores that this process may use, which servers use too."""
        return len(os.sched_getaffinity(0))

    def texts(self) -> Texts:
        """Read the texts of the collection. Raises CommandFailed."""
        return Texts.of(self.data)

    def seconds(self, usual: float) -> float:
        """Return the usual length of a run, or that of a quick one."""
        return min(usual, 2.0) if self.quick else usual

    def report(self, head: Sequence[str], rows: Sequence[Sequence[str]], figures: Mapping[str, Any]) -> None:
        """Print the table, and write the figures with machine and versions."""
        terminal.show_table(head, rows, title=self.name)
        self.write(figures)

    def write(self, figures: Mapping[str, Any]) -> None:
        """Write the figures with machine and versions."""
        options = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        bundle = json.loads((self.bundle / "bundle.json").read_text())
        served = {key: bundle[key] for key in ("name", "version", "default_variant", "max_token_count")}
        record = {"bench": self.name, "figures": figures, "options": options, "bundle": served, **machine.describe()}
        if self.quick:
            err.print("--quick: the figures are not meaningful; they only show that it runs", style="yellow")
        terminal.write_json(self.out / f"bench-{self.name}{'-quick' if self.quick else ''}.json", record)


def benchmark(run: Callable[[Setup], None]) -> Callable[..., None]:
    """Return a command with the shared options that calls `run`; the benchmark has the name of the function."""

    def command(
        bundle: Bundle, data: Data, variant: Variant = "fp32", quick: Quick = False, out: Out = DEFAULT_OUT
    ) -> None:
        run(Setup(run.__name__, bundle, data, variant, quick, out))

    return _like(run, command)


def benchmark_in_rounds(run: Callable[[Setup], None], *, variant: str = "fp32") -> Callable[..., None]:
    """Return a command like `benchmark`'s that has the option `--rounds` too; `variant` is the default graph."""
    default_variant = variant

    def command(
        bundle: Bundle,
        data: Data,
        variant: Variant = default_variant,
        rounds: Rounds = None,
        quick: Quick = False,
        out: Out = DEFAULT_OUT,
    ) -> None:
        run(Setup(run.__name__, bundle, data, variant, quick, out, rounds))

    return _like(run, command)


def _like(run: Callable[[Setup], None], command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the name and the help text of a benchmark."""
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    return command


def alternate(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run the sides in turn, A B A B, so that a machine that slows down slows both. Return each side's results."""
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            err.print(f"  round {number + 1}/{rounds}: {name}", style="dim")
            results[name].append(side())
    return results


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over rounds of one side ÷ the other in the same round."""
    return median(a / b for a, b in zip(above, below, strict=True))


def enough(texts: Sequence[T], wanted: int, what: str) -> list[T]:
    """Return the first `wanted` texts. Raises CommandFailed if there are fewer than a tenth of them."""
    if len(texts) < wanted / 10:
        raise CommandFailed(f"expected a collection with about {wanted} {what} or more, got {len(texts)}")
    return list(texts[:wanted])
