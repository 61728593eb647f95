"""Benchmark of a bundle's graphs against the framework that the checkpoint was made for, in one process.

Both sides get the same texts, sorted by length, and all cores. Neither includes a server.
"""

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Final

import typer
from sluice.cli.console import CommandFailed, err

from loadtest.bench.in_process import InProcess
from loadtest.bench.setup import DEFAULT_OUT, Data, Out, Quick, alternate, ratio
from loadtest.load.targets import Texts
from loadtest.report import machine, terminal

if TYPE_CHECKING:
    from export.options import Options

FRAMEWORK: Final = "framework"
_SAMPLE: Final = 16
_MOST: Final = 512
_PASS_S: Final = 6.0


def frameworks(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.", exists=True, file_okay=False)],
    data: Data,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side, in turn.")] = 5,
    quick: Quick = False,
    out: Out = DEFAULT_OUT,
) -> None:
    """Measure texts per second of each graph of a checkpoint's bundle ÷ those of the framework that runs it."""
    from export.options import Options  # noqa: PLC0415 - importing torch takes seconds

    results = compare(
        checkpoint, Options(name="model"), data, rounds=1 if quick else rounds, seconds=2 if quick else _PASS_S
    )
    ratios = ratios_of(results)
    rows = [[name, f"{median(values):.1f}", f"{ratios.get(name, 1):.2f}"] for name, values in results.items()]
    terminal.show_table(("side", "texts/s", "÷ framework"), rows, title="frameworks")
    record = {"bench": "frameworks", "figures": {"texts_per_s": results, "ratio": ratios}, **machine.describe()}
    terminal.write_json(out / f"bench-frameworks{'-quick' if quick else ''}.json", record)


def compare(
    checkpoint: Path, options: "Options", data: Path, *, rounds: int, seconds: float = _PASS_S
) -> dict[str, list[float]]:
    """Return the texts per second of each round: of the framework, and of each graph of a new bundle.

    seconds  about how long the framework's rounds take
    """
    with tempfile.TemporaryDirectory() as folder:
        framework, graphs = _sides(checkpoint, Path(folder), options)
        passages = list(Texts.of(data).passages)
        random.Random(1).shuffle(passages)  # noqa: S311
        rate = _rate(framework, passages[:_SAMPLE])
        passages = sorted(passages[: max(_SAMPLE, min(_MOST, int(rate * seconds)))], key=len, reverse=True)
        for graph in graphs.values():
            graph.choose(graph.texts(passages))
        sides = {
            name: lambda graph=graph: _rate(lambda texts: graph.run(graph.texts(texts)), passages)
            for name, graph in graphs.items()
        }
        return alternate(rounds, {FRAMEWORK: lambda: _rate(framework, passages), **sides})


def ratios_of(results: dict[str, list[float]]) -> dict[str, float]:
    """Return the speed of each graph ÷ that of the framework, the median over rounds."""
    return {name: ratio(side, results[FRAMEWORK]) for name, side in results.items() if name != FRAMEWORK}


def _sides(
    checkpoint: Path, out: Path, options: "Options"
) -> tuple[Callable[[list[str]], object], dict[str, InProcess]]:
    """Export the checkpoint, and return a function that runs it in its framework, and each graph."""
    from export.build import export_bundle  # noqa: PLC0415 - importing torch takes seconds
    from export.checkpoint.reader import read_checkpoint  # noqa: PLC0415
    from export.options import overridden  # noqa: PLC0415
    from export.reference.loader import load_reference  # noqa: PLC0415

    stated = overridden(read_checkpoint(str(checkpoint)), options)
    if stated.task == "cross-encoder":
        raise CommandFailed(f"{checkpoint}: expected a model of single texts, got a cross-encoder")
    bundle = export_bundle(str(checkpoint), out, options, say=lambda line: err.print(f"  {line}", style="dim"))
    framework = load_reference(stated, multi_vector=False)
    threads = len(os.sched_getaffinity(0))
    outputs = bundle.manifest.representations[:1]
    graphs = {str(name): InProcess(bundle.folder, name, threads, outputs) for name in bundle.manifest.variants}
    return lambda texts: framework.run(list(texts)), graphs


def _rate(run: Callable[[list[str]], object], texts: Sequence[str]) -> float:
    """Return the texts per second of one run."""
    started = perf_counter()
    run(list(texts))
    return len(texts) / (perf_counter() - started)
