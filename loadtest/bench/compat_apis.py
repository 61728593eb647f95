"""Benchmark of the compatible APIs against Sluice's own, and of other servers that have one of these APIs."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import typer
from sluice.cli.console import CommandFailed

from loadtest.bench import setup
from loadtest.bench.closed_loop import Driven
from loadtest.bench.peers import is_cross_encoder, runner
from loadtest.bench.setup import Setup, alternate, ratio
from loadtest.peers import kserve, tei, triton
from loadtest.peers.work import Endpoint, Task, Work, embed_work, rerank_work
from loadtest.servers import server

_CALLERS: Final = (1, 8)
_RUN_S: Final = 4.0
_WARM_S: Final = 1.0
_OURS: Final = "sluice"
# Half precision stays below this distance; other pooling does not.
_MOST_DISTANCE: Final = 0.02


def doors(  # noqa: PLR0913, PLR0917 - each is a flag
    bundle: setup.Bundle,
    data: setup.Data,
    other_kserve: Annotated[str, typer.Option("--kserve", help="HOST:PORT of a KServe v2 or Triton server.")] = "",
    model: Annotated[str, typer.Option(help="Model name on the KServe server. (default: the bundle's)")] = "",
    output: Annotated[str, typer.Option(help="Its float output. (default: dense, or score)")] = "",
    other_tei: Annotated[str, typer.Option("--tei", help="HOST:PORT of a TEI server's gRPC API.")] = "",
    with_triton: Annotated[
        bool, typer.Option("--triton", help="Also start NVIDIA Triton with the same graph.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Folder for Triton's environment.")] = Path("~/.cache/sluice-peers"),
    variant: setup.Variant = "fp32",
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Compare Sluice's own API with tei.v1 and KServe v2 of the same server, and with other servers.

    With a bi-encoder each call embeds one text; with a cross-encoder each call reranks 16 documents.
    """
    task: Task = "rerank" if is_cross_encoder(bundle) else "embed"
    plan = Setup(f"doors-{task}-{variant}", bundle, data, variant, quick, out, rounds)
    texts = plan.texts()
    work = rerank_work(texts) if task == "rerank" else embed_work(texts.queries)
    flags = ("--bundles", str(bundle), "--variant", variant, "--cache-entries", "0", "--max-deadline-s", "600")
    with ExitStack() as stack:
        one = stack.enter_context(server("reranking" if task == "rerank" else "embedding", *flags))
        sides = own_doors(one.address, work, bundle.parent.name)
        if with_triton:
            python = triton.environment(cache.expanduser().absolute())
            address = stack.enter_context(triton.serving(python, bundle, plan.threads))
            sides["Triton"] = kserve.endpoint(address, work, triton.MODEL)
        if other_kserve:
            name = model or bundle.parent.name
            sides[f"KServe at {other_kserve}"] = kserve.endpoint(other_kserve, work, name, output)
        if other_tei:
            sides[f"TEI at {other_tei}"] = tei.endpoint(other_tei, work)
        distances = distances_of(work, sides)
        for side in sides.values():
            side.drive(_CALLERS[-1], 0.1 if quick else _WARM_S)
        measured = {
            callers: alternate(
                plan.rounds,
                {name: runner(side.drive, callers, plan.seconds(_RUN_S)) for name, side in sides.items()},
            )
            for callers in (_CALLERS[1:] if quick else _CALLERS)
        }
    rows, figures = zip(*(row for callers in measured for row in _rows(callers, measured[callers])), strict=True)
    plan.report(
        ("callers", "", "calls/s", "p50 ms", "own API ÷ it"), rows, {"runs": figures, "distance_to_ours": distances}
    )


def own_doors(address: str, work: Work, model: str) -> dict[str, Endpoint]:
    """Return all APIs of the Sluice server at an address, its own first."""
    return {
        _OURS: work.endpoint(address),
        "sluice tei.v1": tei.endpoint(address, work),
        "sluice KServe v2": kserve.endpoint(address, work, model),
    }


def distances_of(work: Work, sides: dict[str, Endpoint]) -> dict[str, float]:
    """Return how far each side's first answer is from ours. Raises CommandFailed if one is of another model."""
    ours = sides[_OURS].first()
    found = {name: work.distance(ours, side.first()) for name, side in sides.items()}
    for name, distance in found.items():
        if distance > _MOST_DISTANCE:
            raise CommandFailed(
                f"{name}: expected an answer within {_MOST_DISTANCE} of ours, got {distance:.3f}; check its model"
            )
    return found


def _rows(callers: int, results: dict[str, list[Driven]]) -> Sequence[tuple[list[str], dict[str, Any]]]:
    """Return a row of the table and of the file for each side."""
    ours = [driven.per_second for driven in results[_OURS]]
    rows = []
    for name, runs in results.items():
        speeds = [driven.per_second for driven in runs]
        p50 = median(latency for driven in runs for latency in driven.latencies_s)
        shown = [str(callers), name, f"{median(speeds):.1f}", f"{1000 * p50:.2f}", f"{ratio(ours, speeds):.2f}"]
        rows.append((shown, {"callers": callers, "name": name, "calls_per_s": speeds, "p50_s": p50}))
    return rows
