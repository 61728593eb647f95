"""The command `compare`: measures whether one commit is slower than another, with servers of both side by side."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import typer
from sluice.cli.console import CommandFailed, err

from loadtest.bench import setup
from loadtest.compare.loads import LOADS, Compared, Measure
from loadtest.compare.regression import SpeedComparison, judge
from loadtest.load.targets import Texts
from loadtest.report import machine, terminal

_RUN_S: Final = 3.0
_WARM_UP_S: Final = 1.0
_ONLY_HELP: Final = f"Measure only this load: {', '.join(LOADS)}. May repeat."


def compare(  # noqa: PLR0913, PLR0917 - each is a flag
    old: Annotated[str, typer.Argument(help="Old commit, branch or tag.")],
    new: Annotated[str, typer.Argument(help="New commit, branch or tag; `.` is the current work tree.")],
    bundle: setup.Bundle,
    data: setup.Data,
    pairs: Annotated[int, typer.Option(min=3, max=100, help="Number of paired runs.")] = 12,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Smallest change that counts.")] = 0.05,
    only: Annotated[list[str] | None, typer.Option(help=_ONLY_HELP)] = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Compare the speed of two commits by paired runs. Exit code 1 if the new one is slower.

    [bold]Example[/]

      python -m loadtest compare main . --bundle bundles/all-MiniLM-L6-v2/1 --data collections/mine
    """
    if unknown := set(only or ()) - LOADS.keys():
        raise CommandFailed(f"--only: expected {', '.join(LOADS)}, got {', '.join(sorted(unknown))}")
    given = Compared(bundle, Texts.of(data), quick)
    chosen = {name: LOADS[name] for name in only or LOADS}
    with _tree(old) as old_tree, _tree(new) as new_tree:
        runs = {}
        for name, load in chosen.items():
            with load(given, old_tree) as before, load(given, new_tree) as after:
                runs[name] = _pairs(name, before, after, 3 if quick else pairs, 0.5 if quick else _RUN_S)
    comparisons = {name: judge([b / a for a, b in own], tolerance) for name, own in runs.items()}
    rows = [
        [name, one.verdict, _median(runs[name], 0), _median(runs[name], 1), *_cells(one)]
        for name, one in comparisons.items()
    ]
    terminal.show_table(("per second", "verdict", old, new, "new ÷ old", "95 %"), rows)
    figures = {name: {"pairs": runs[name], **asdict(one)} for name, one in comparisons.items()}
    options = {"old": old, "new": new, "tolerance": tolerance, "quick": quick}
    terminal.write_json(out / "compare.json", {"figures": figures, "options": options, **machine.describe()})
    if slower := [name for name, one in comparisons.items() if one.verdict == "slower"]:
        raise CommandFailed(f"{new} is slower than {old}: {', '.join(slower)}")


def _pairs(name: str, before: Measure, after: Measure, count: int, seconds: float) -> list[tuple[float, float]]:
    """Return the speeds of old and new, measured in turn. The side that goes first alternates from pair to pair."""
    for measure in (before, after):
        measure(min(_WARM_UP_S, seconds))
    found = []
    for number in range(count):
        err.print(f"  {name}: pair {number + 1}/{count}", style="dim")
        if number % 2:
            second, first = after(seconds), before(seconds)
        else:
            first, second = before(seconds), after(seconds)
        found.append((first, second))
    return found


@contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """Yield a folder with the files of a commit, or the work tree itself for `.`. Raises CommandFailed."""
    top = Path(__file__).parents[2]
    if commit == ".":
        yield top
        return
    with tempfile.TemporaryDirectory(prefix="sluice-tree-") as folder:
        archive = subprocess.run(  # noqa: S603 - our own arguments
            ["git", "-C", str(top), "archive", "--format=tar", commit, "--"],  # noqa: S607 - whichever git there is
            capture_output=True,
            check=False,
        )
        if archive.returncode:
            raise CommandFailed(f"{commit}: expected a commit: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)  # noqa: S603, S607
        yield Path(folder)


def _median(runs: list[tuple[float, float]], side: int) -> str:
    return f"{median(pair[side] for pair in runs):.1f}"


def _cells(one: SpeedComparison) -> list[str]:
    return [f"{one.ratio:.3f}", f"{one.low:.3f} to {one.high:.3f}"]
