"""Benchmark of Sluice against other ways to serve the same model, with 1 to 64 callers on one machine."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import psutil
import typer
from sluice.cli.console import CommandFailed, err

from loadtest.bench import setup
from loadtest.bench.closed_loop import Driven
from loadtest.bench.setup import Setup, alternate, ratio
from loadtest.peers import infinity, rest, sentence_transformers
from loadtest.peers.sentence_transformers import InProcess
from loadtest.peers.work import Task, Values, Work, embed_work, rerank_work
from loadtest.servers import Server, server

_CALLERS: Final = (1, 4, 16, 64)
_RUN_S: Final = 4.0
_CHOOSE_S: Final = 3.0
_CHOOSE_CALLERS: Final = 16
_ROUNDS: Final = 2
_BULK_TEXTS: Final = 512
# All must do the same work; wrong pooling gives a distance of 0.4. Infinity's optimum engine approximates GELU, which a
# wide head turns into 0.02 of a score. 8-bit graphs may differ more; the result has their distance.
_MOST_DISTANCE: Final[dict[Task, float]] = {"embed": 0.02, "rerank": 0.05}
_OURS: Final = "sluice"
_ALONE: Final = "sentence-transformers"


@dataclass(frozen=True)
class Contender:
    """One way to serve: its closed loop, its answer to the first call, and its memory."""

    drive: Callable[[int, float], Driven]
    values: Callable[[], Values]
    memory_bytes: Callable[[], int]


def peers(  # noqa: PLR0913, PLR0917 - each is a flag
    bundle: setup.Bundle,
    data: setup.Data,
    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint that the bundle was made from.")],
    cache: Annotated[Path, typer.Option(help="Folder for the peers' environments and models.")] = Path(
        "~/.cache/sluice-peers"
    ),
    queries: Annotated[bool, typer.Option("--queries", help="Embed short queries instead of passages.")] = False,
    variant: setup.Variant = "fp32",
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Compare calls per second with infinity-emb (both engines) and with sentence-transformers called per request.

    With a bi-encoder each call embeds one text; with a cross-encoder each call reranks 16 documents.
    """
    task: Task = "rerank" if is_cross_encoder(bundle) else "embed"
    what = "pairs" if task == "rerank" else "queries" if queries else "passages"
    plan = Setup(f"peers-{what}-{variant}", bundle, data, variant, quick, out, rounds or (1 if quick else _ROUNDS))
    texts = plan.texts()
    work = rerank_work(texts) if task == "rerank" else embed_work(texts.queries if queries else texts.passages)
    with contenders(plan, work, checkpoint.absolute(), cache.expanduser().absolute()) as (sides, chosen, alone):
        distances = _same_work(work, sides, strict=variant == "fp32")
        measured = {
            callers: alternate(
                plan.rounds, {name: runner(side.drive, callers, plan.seconds(_RUN_S)) for name, side in sides.items()}
            )
            for callers in (_CALLERS[1:2] if quick else _CALLERS)
        }
        memory = {name: side.memory_bytes() for name, side in sides.items()}
        more: dict[str, Any] = {"threads": chosen, "distance_to_ours": distances}
        if task == "embed":
            bulk = alone.bulk_per_second(32 if quick else _BULK_TEXTS, plan.threads)
            err.print(f"  {_ALONE}, all texts at once: {bulk:.1f} texts/s", style="dim")
            more["sentence_transformers_bulk_texts_per_s"] = bulk
    _report(plan, measured, memory, more)


@contextmanager
def contenders(
    plan: Setup, work: Work, checkpoint: Path, cache: Path
) -> Iterator[tuple[dict[str, Contender], dict[str, int], InProcess]]:
    """Yield all contenders, ours first; the best thread count of each peer; and the in-process peer itself."""
    program = infinity.environment(cache)
    folder = infinity.model_folder(checkpoint, cache, work.task)
    chosen: dict[str, int] = {}
    with ExitStack() as stack:
        flags = ("--bundles", str(plan.bundle), "--variant", plan.variant, "--cache-entries", "0")
        name = "reranking" if work.task == "rerank" else "embedding"
        ours = stack.enter_context(server(name, *flags, "--max-deadline-s", "600"))
        sides = {_OURS: _sluice(ours, work)}
        for engine in infinity.ENGINES:
            name = f"infinity {engine}"
            chosen[name] = _best_threads(plan, work, program, folder, engine)
            peer = stack.enter_context(infinity.serving(program, folder, engine, chosen[name]))
            sides[name] = _infinity(peer, work)
        alone = stack.enter_context(sentence_transformers.serving(checkpoint, work.task, work))
        speeds = {
            threads: alone.drive(_CHOOSE_CALLERS, plan.seconds(_CHOOSE_S), threads).per_second
            for threads in {1, plan.threads}
        }
        threads = chosen[_ALONE] = max(speeds, key=lambda threads: speeds[threads])
        sides[_ALONE] = Contender(
            lambda callers, seconds: alone.drive(callers, seconds, threads),
            lambda: alone.values(threads),
            lambda: alone.memory_bytes,
        )
        yield sides, chosen, alone


def _best_threads(plan: Setup, work: Work, program: Path, folder: Path, engine: infinity.Engine) -> int:
    """Return the number of OpenMP threads with which an engine is fastest."""
    speeds = {}
    for threads in sorted({1, plan.threads}):
        with infinity.serving(program, folder, engine, threads) as peer:
            drive = _infinity(peer, work).drive
            drive(_CHOOSE_CALLERS, 1.0)
            speeds[threads] = drive(_CHOOSE_CALLERS, plan.seconds(_CHOOSE_S)).per_second
        err.print(f"  infinity {engine}, {threads} threads: {speeds[threads]:.1f} calls/s", style="dim")
    return max(speeds, key=lambda threads: speeds[threads])


def _sluice(one: Server, work: Work) -> Contender:
    own = work.endpoint(one.address)
    return Contender(own.drive, own.first, one.memory_bytes)


def _infinity(peer: infinity.Peer, work: Work) -> Contender:
    def drive(callers: int, seconds: float) -> Driven:
        return rest.for_seconds(peer.address, work.rest_path, work.rest, callers, seconds)

    return Contender(
        drive,
        lambda: work.rest_values(rest.answer(peer.address, work.rest_path, work.rest[0])),
        lambda: _memory_bytes(peer.pid),
    )


def _same_work(work: Work, sides: Mapping[str, Contender], *, strict: bool) -> dict[str, float]:
    """Return how far each peer's answer is from ours. Raises CommandFailed if one is of another model."""
    ours = sides[_OURS].values()
    found = {name: work.distance(ours, side.values()) for name, side in sides.items()}
    for name, distance in found.items():
        if strict and distance > (most := _MOST_DISTANCE[work.task]):
            raise CommandFailed(
                f"{name}: expected an answer within {most} of ours, got {distance:.3f}; check its model"
            )
    return found


def runner(drive: Callable[[int, float], Driven], callers: int, seconds: float) -> Callable[[], Driven]:
    """Return a closed loop that is ready to run."""
    return lambda: drive(callers, seconds)


def _report(
    plan: Setup,
    measured: Mapping[int, Mapping[str, Sequence[Driven]]],
    memory: Mapping[str, int],
    more: dict[str, Any],
) -> None:
    table, figures = [], []
    for callers, results in measured.items():
        ours = [driven.per_second for driven in results[_OURS]]
        for name, runs in results.items():
            speeds = [driven.per_second for driven in runs]
            times = sorted(latency for driven in runs for latency in driven.latencies_s)
            p50, p99 = median(times), times[min(len(times) - 1, int(0.99 * len(times)))]
            times_ours = ratio(ours, speeds)
            shown = [f"{median(speeds):.1f}", f"{1000 * p50:.1f}", f"{1000 * p99:.1f}", f"{times_ours:.2f}"]
            table.append([str(callers), name, *shown, f"{memory[name] / 2**20:.0f}"])
            record = {"callers": callers, "name": name, "calls_per_s": speeds, "sluice_ratio": times_ours}
            figures.append(record | {"p50_s": p50, "p99_s": p99})
    head = ("callers", "", "calls/s", "p50 ms", "p99 ms", "Sluice ÷ it", "MiB")
    plan.report(head, table, {"runs": figures, "memory_bytes": dict(memory), **more})


def is_cross_encoder(bundle: Path) -> bool:
    """Return whether a bundle scores pairs."""
    return bool(json.loads((bundle / "bundle.json").read_text())["task"] == "cross_encoder")


def _memory_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children."""
    process = psutil.Process(pid)
    return sum(int(one.memory_info().rss) for one in (process, *process.children(recursive=True)))
