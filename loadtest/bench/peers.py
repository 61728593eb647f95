"""How Sluice compares with other ways to serve the same model: one text a call, 1 to 64 callers, one machine."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import psutil
import typer
from sluice.cli.console import CommandFailed, err
from sluice.client import EmbeddingClient

from loadtest.bench import setup
from loadtest.bench.drive import EMBED, Driven, embed_requests, for_seconds
from loadtest.bench.setup import Setup, alternate, ratio
from loadtest.peers import infinity, rest, sentence_transformers
from loadtest.servers import server

_CALLERS: Final = (1, 4, 16, 64)
_RUN_S: Final = 4.0
_CHOOSE_S: Final = 3.0
_CHOOSE_CALLERS: Final = 16
_ROUNDS: Final = 2
_BULK_TEXTS: Final = 512
# All must do the same work: least cosine between a peer's vector and ours.
_LEAST_COSINE: Final = 0.98
_OURS: Final = "sluice"


@dataclass(frozen=True)
class Contender:
    """One way to embed: a closed loop of so many callers over texts, for so long."""

    drive: Callable[[Sequence[str], int, float], Driven]
    vector: Callable[[str], Sequence[float]]
    memory_bytes: Callable[[], int]


def peers(  # noqa: PLR0913, PLR0917 - each is a flag
    bundle: setup.Bundle,
    data: setup.Data,
    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint that the bundle was made from.")],
    cache: Annotated[Path, typer.Option(help="Folder for the peers' environments and models.")] = Path(
        "~/.cache/sluice-peers"
    ),
    queries: Annotated[bool, typer.Option("--queries", help="Short queries instead of passages.")] = False,
    variant: setup.Variant = "fp32",
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Calls a second of Sluice ÷ infinity-emb (both engines) and ÷ sentence-transformers called once per request."""
    plan = Setup(f"peers-{'queries' if queries else 'passages'}-{variant}", bundle, data, variant, quick, out)
    texts = list(plan.texts().queries if queries else plan.texts().passages)
    random.Random(1).shuffle(texts)  # noqa: S311
    cache = cache.expanduser().absolute()
    callers = _CALLERS[1:2] if quick else _CALLERS
    with contenders(plan, checkpoint.absolute(), cache, texts) as (sides, chosen, alone):
        cosines = _same_work(sides, texts[0])
        measured = {
            number: alternate(
                rounds or (1 if quick else _ROUNDS),
                {name: _side(side, texts, number, plan.seconds(_RUN_S)) for name, side in sides.items()},
            )
            for number in callers
        }
        memory = {name: side.memory_bytes() for name, side in sides.items()}
        bulk = alone.bulk_per_second(texts[: 32 if quick else _BULK_TEXTS], plan.threads)
    err.print(f"  sentence-transformers, all texts at once: {bulk:.1f} texts/s", style="dim")
    more = {"threads": chosen, "cosine_to_ours": cosines, "sentence_transformers_bulk_texts_per_s": bulk}
    _tell(plan, measured, memory, more)


@contextmanager
def contenders(
    plan: Setup, checkpoint: Path, cache: Path, texts: Sequence[str]
) -> Iterator[tuple[dict[str, Contender], dict[str, int], sentence_transformers.InProcess]]:
    """All of them, ready, ours first; how many threads are best for each peer; and the one in process itself."""
    program = infinity.environment(cache)
    folder = infinity.model_folder(checkpoint, cache)
    chosen: dict[str, int] = {}
    with ExitStack() as stack:
        flags = ("--bundles", str(plan.bundle), "--variant", plan.variant, "--cache-entries", "0")
        ours = stack.enter_context(server("embedding", *flags, "--max-deadline-s", "600"))
        sides = {_OURS: _sluice(ours.address, ours.memory_bytes)}
        for engine in ("torch", "optimum"):
            name = f"infinity {engine}"
            chosen[name] = _best_threads(plan, program, folder, engine, texts)
            peer = stack.enter_context(infinity.serving(program, folder, engine, chosen[name]))
            sides[name] = _infinity(peer)
        name = "sentence-transformers"
        alone = stack.enter_context(sentence_transformers.serving(checkpoint))
        speeds = {
            threads: alone.for_seconds(texts, _CHOOSE_CALLERS, plan.seconds(_CHOOSE_S), threads).per_second
            for threads in {1, plan.threads}
        }
        chosen[name] = max(speeds, key=lambda threads: speeds[threads])
        sides[name] = _alone(alone, chosen[name])
        yield sides, chosen, alone


def _best_threads(plan: Setup, program: Path, folder: Path, engine: infinity.Engine, texts: Sequence[str]) -> int:
    """OpenMP threads that give an engine most calls a second."""
    speeds = {}
    for threads in sorted({1, plan.threads}):
        with infinity.serving(program, folder, engine, threads) as peer:
            drive = _infinity(peer).drive
            drive(texts, _CHOOSE_CALLERS, 1.0)
            speeds[threads] = drive(texts, _CHOOSE_CALLERS, plan.seconds(_CHOOSE_S)).per_second
        err.print(f"  infinity {engine}, {threads} threads: {speeds[threads]:.1f} calls/s", style="dim")
    return max(speeds, key=lambda threads: speeds[threads])


def _sluice(address: str, memory_bytes: Callable[[], int]) -> Contender:
    def drive(texts: Sequence[str], callers: int, seconds: float) -> Driven:
        return for_seconds(address, EMBED, embed_requests(texts, 1, "interactive"), callers, seconds)

    def vector(text: str) -> Sequence[float]:
        with EmbeddingClient(address) as client:
            dense = client.embed([text], "document").dense
        assert dense is not None
        return [float(value) for value in np.asarray(dense)[0]]

    return Contender(drive, vector, memory_bytes)


def _infinity(peer: infinity.Peer) -> Contender:
    def drive(texts: Sequence[str], callers: int, seconds: float) -> Driven:
        return rest.for_seconds(peer.address, "/embeddings", rest.bodies(texts), callers, seconds)

    return Contender(
        drive, lambda text: rest.vector(peer.address, "/embeddings", text), lambda: _memory_bytes(peer.pid)
    )


def _alone(process: sentence_transformers.InProcess, threads: int) -> Contender:
    def drive(texts: Sequence[str], callers: int, seconds: float) -> Driven:
        return process.for_seconds(texts, callers, seconds, threads)

    def vector(text: str) -> Sequence[float]:
        process.for_seconds([text], 1, 0.1, threads)
        return process.vector

    return Contender(drive, vector, lambda: process.memory_bytes)


def _same_work(sides: Mapping[str, Contender], text: str) -> dict[str, float]:
    """Cosine of each peer's vector to ours. Raises CommandFailed when one is something else."""
    ours = sides[_OURS].vector(text)
    found = {name: _cosine(ours, side.vector(text)) for name, side in sides.items()}
    for name, cosine in found.items():
        if cosine < _LEAST_COSINE:
            raise CommandFailed(f"{name}: expected the vectors that Sluice gives, cosine is {cosine:.3f}: other model?")
    return found


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _side(side: Contender, texts: Sequence[str], callers: int, seconds: float) -> Callable[[], Driven]:
    return lambda: side.drive(texts, callers, seconds)


def _tell(
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
    plan.tell(head, table, {"runs": figures, "memory_bytes": dict(memory), **more})


def _memory_bytes(pid: int) -> int:
    """Resident memory of a process and those it started."""
    process = psutil.Process(pid)
    return sum(int(one.memory_info().rss) for one in (process, *process.children(recursive=True)))
