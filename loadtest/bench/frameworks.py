"""Benchmark of a bundle's graphs against the framework that the checkpoint was made for, in one process.

Both sides get the same texts, sorted by length, and all cores. Neither includes a server.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Final

import typer
from sluice.cli.console import CommandFailed, err

from loadtest.bench.in_process import InProcess
from loadtest.bench.setup import DEFAULT_OUT, Data, Out, Quick, Setup, alternate, ratio
from services.inference.bundle import open_bundle

if TYPE_CHECKING:
    from export.checkpoint.description import Checkpoint

FRAMEWORK: Final = "framework"
_SAMPLE: Final = 16
_MOST: Final = 512
_PASS_S: Final = 6.0


def frameworks(
    checkpoint: Annotated[Path, typer.Argument(help="The bundle's checkpoint.", exists=True, file_okay=False)],
    data: Data,
    bundle: Annotated[Path | None, typer.Option(help="Its bundle, NAME/VERSION. (default: a new one)")] = None,
    quick: Quick = False,
    out: Out = DEFAULT_OUT,
) -> None:
    """Measure texts per second of each graph of a bundle ÷ those of the framework that runs its checkpoint."""
    from export.checkpoint.reader import read_checkpoint  # noqa: PLC0415 - importing torch takes seconds

    with tempfile.TemporaryDirectory() as folder:
        plan = Setup("frameworks", bundle or _export(checkpoint, Path(folder)), data, quick=quick, out=out)
        results = compare(read_checkpoint(str(checkpoint)), plan)
        ratios = ratios_of(results)
        rows = [[name, f"{median(values):.1f}", f"{ratios.get(name, 1):.2f}"] for name, values in results.items()]
        plan.report(("side", "texts/s", "÷ framework"), rows, {"texts_per_s": results, "ratio": ratios})


def _export(checkpoint: Path, out: Path) -> Path:
    """Export the checkpoint, and return the folder of its bundle."""
    from export.build import export_bundle  # noqa: PLC0415 - importing torch takes seconds
    from export.options import Options  # noqa: PLC0415

    say = partial(err.print, style="dim")
    return export_bundle(str(checkpoint), out, Options(name="model"), say=say).folder


def compare(checkpoint: "Checkpoint", plan: Setup) -> dict[str, list[float]]:
    """Return the texts per second of each round: of the framework, and of each graph of the bundle."""
    from export.reference.loader import load_reference  # noqa: PLC0415 - importing torch takes seconds

    if checkpoint.task == "cross-encoder":
        raise CommandFailed(f"{checkpoint.name}: expected a model of single texts, got a cross-encoder")
    manifest = open_bundle(plan.bundle).manifest
    outputs = manifest.representations[:1]
    graphs = {name: InProcess(plan.bundle, name, plan.threads, outputs) for name in manifest.variants}
    framework = load_reference(checkpoint, multi_vector=False)
    passages = list(plan.texts().passages)
    random.Random(1).shuffle(passages)  # noqa: S311
    rate = _rate(framework.run, passages[:_SAMPLE])
    count = max(_SAMPLE, min(_MOST, int(rate * plan.seconds(_PASS_S))))
    passages = sorted(passages[:count], key=len, reverse=True)
    for graph in graphs.values():
        graph.choose(graph.texts(passages))
    runs: dict[str, Callable[[list[str]], object]] = {FRAMEWORK: framework.run}
    runs |= {str(name): _run_of(graph) for name, graph in graphs.items()}
    return alternate(plan.rounds, {name: partial(_rate, run, passages) for name, run in runs.items()})


def ratios_of(results: dict[str, list[float]]) -> dict[str, float]:
    """Return the speed of each graph ÷ that of the framework, the median over rounds."""
    return {name: ratio(side, results[FRAMEWORK]) for name, side in results.items() if name != FRAMEWORK}


def _run_of(graph: InProcess) -> Callable[[list[str]], object]:
    """Return a function that tokenizes texts and runs the graph, as the framework does both."""
    return lambda texts: graph.run(graph.texts(texts))


def _rate(run: Callable[[list[str]], object], texts: Sequence[str]) -> float:
    """Return the texts per second of one run."""
    started = perf_counter()
    run(list(texts))
    return len(texts) / (perf_counter() - started)
