"""The benchmark of attacks: their cost in memory and processor time, and how long other callers wait meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from sluice.cli.console import CommandFailed, err, out

from loadtest.attacks.attack import Attack
from loadtest.attacks.bodies import Bodies
from loadtest.attacks.connections import Connections
from loadtest.attacks.decoding import Decoding
from loadtest.attacks.filters import Filters
from loadtest.attacks.gzip_bombs import GzipBombs
from loadtest.attacks.json_bodies import JsonBodies
from loadtest.attacks.measure import measure
from loadtest.attacks.open_streams import OpenStreams
from loadtest.attacks.system import probes_of, target_of
from loadtest.attacks.tensors import Tensors
from loadtest.attacks.unread import UnreadAnswers
from loadtest.attacks.verdict import Bounds, Outcome, broken
from loadtest.attacks.watch import HealthWatchers
from loadtest.attacks.words import Words
from loadtest.bench import setup
from loadtest.bench.setup import Setup

ATTACKS: Final[Sequence[Attack]] = (
    GzipBombs(),
    UnreadAnswers(),
    Bodies(),
    JsonBodies(),
    Words(),
    HealthWatchers(),
    Filters(),
    Decoding(),
    Tensors(),
    Connections(),
    OpenStreams(),
)
HEAD: Final = (
    "attack", "verdict", "growth MB", "bound", "processor s", "after, x", "probe failures", "health ms", "call ms",
)  # fmt: skip
_NEEDS_GUARDED: Final = ("tensors",)


@dataclass(frozen=True)
class Row:
    """An attack with its measured cost and the bounds that it broke."""

    attack: Attack
    bounds: Bounds
    outcome: Outcome
    broken: Sequence[str]

    def cells(self) -> Sequence[str]:
        """Return the cells of the table, in the order of its head."""
        outcome, bounds = self.outcome, self.bounds
        return (
            self.attack.name,
            "broken" if self.broken else "holds",
            f"{outcome.growth(bounds)[1]:.0f}",
            "" if bounds.growth_mb is None else f"{bounds.growth_mb:.0f}",
            f"{outcome.processor[1]:.2f}",
            f"{outcome.left[1]:.2f}",
            f"{len(outcome.failures)} of {len(outcome.probes)}",
            f"{outcome.longest_ms(is_health=True):.0f}",
            f"{outcome.longest_ms(is_health=False):.0f}",
        )

    def record(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        outcome = asdict(self.outcome)
        outcome["probes"] = len(self.outcome.probes)
        outcome["failures"] = [asdict(one) for one in self.outcome.failures[:20]]
        for is_health, name in ((True, "health_ms"), (False, "call_ms")):
            outcome[name] = self.outcome.longest_ms(is_health=is_health)
        return {
            "parameters": asdict(self.attack),  # type: ignore[call-overload]
            "bounds": asdict(self.bounds),
            "broken": list(self.broken),
            **outcome,
        }


def attacks(  # noqa: PLR0913, PLR0917 - each is a flag
    bundle: setup.Bundle,
    data: setup.Data,
    only: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(one.name for one in ATTACKS)}; may repeat. (default: all)")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Parameter of the attacks; may repeat."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 1,
    tree: Annotated[
        Path | None, typer.Option(help="Attack the servers of another source tree.", exists=True, file_okay=False)
    ] = None,
    settle_s: Annotated[float, typer.Option(min=0, help="Longest wait until memory is released, in seconds.")] = 60.0,
    most_mb: Annotated[
        float, typer.Option(min=1, help="Growth in MB at which a server is killed, to protect the machine.")
    ] = 4000.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead of a table.")] = False,
    out_folder: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Attack a running system; measure its memory and processor time, and the answers that others get.

    Every attack has a system of its own. Exits with 1 when a bound is broken.
    """
    chosen = chosen_of(only or [], [*(parameter or []), f"seed={seed}"])
    plan = Setup("attacks", bundle, data, out=out_folder)
    texts = plan.texts()
    rows = []
    for attack in chosen:
        with target_of(bundle, texts, tree and tree.absolute(), guarded=attack.name in _NEEDS_GUARDED) as target:
            probes = probes_of(target, texts.queries[0])
            outcome = measure(attack, target, probes, settle_s, most_mb)
            bounds = attack.bounds(target)
            rows.append(Row(attack, bounds, outcome, broken(outcome, bounds)))
    figures = {row.attack.name: row.record() for row in rows}
    show(plan, rows, figures, as_json=as_json)
    if any(row.broken for row in rows):
        raise typer.Exit(1)


def show(plan: Setup, rows: Sequence[Row], figures: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the table and every broken bound, or JSON; write the file."""
    if as_json:
        out.print_json(data=dict(figures))
        plan.write(figures)
    else:
        plan.report(HEAD, [row.cells() for row in rows], figures)
    for row in rows:
        for sentence in row.broken:
            err.print(f"{row.attack.name}: {sentence}", style="red", markup=False, soft_wrap=True)


def chosen_of(only: Sequence[str], parameters: Sequence[str]) -> list[Attack]:
    """Return the attacks of these names, or all, with these parameters. Raise CommandFailed for an unknown one."""
    names = [one.name for one in ATTACKS]
    if unknown := sorted(set(only) - set(names)):
        raise CommandFailed(f"--only: expected {', '.join(names)}, got {', '.join(unknown)}")
    chosen = [one for one in ATTACKS if not only or one.name in only]
    for written in parameters:
        name, _, value = written.partition("=")
        chosen = [_with(one, name, value) for one in chosen]
        if not any(name in _types(one) for one in chosen):
            raise CommandFailed(f"--parameter: expected a parameter of {', '.join(names)}, got {name!r}")
    return chosen


def _with(attack: Attack, name: str, value: str) -> Attack:
    """Return the attack with another value of a parameter; unchanged if it has no parameter of that name."""
    kind = _types(attack).get(name)
    if kind is None:
        return attack
    try:
        return replace(attack, **{name: kind(value)})  # type: ignore[type-var]
    except ValueError:
        raise CommandFailed(f"--parameter: expected {name} to be {kind.__name__}, got {value!r}") from None


def _types(attack: Attack) -> dict[str, type]:
    return {one.name: type(getattr(attack, one.name)) for one in fields(attack)}  # type: ignore[arg-type]
