"""Benchmark of search latency while documents are written."""

import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.bench import setup
from loadtest.bench.retrieval.collection_server import Served, dense_schema, ms, p, retrieve_requests, served, upserts
from loadtest.bench.retrieval.vectors import Vectors
from loadtest.bench.setup import Setup, alternate, ratio

F32 = NDArray[np.float32]

_SECONDS: Final = 20.0
_WRITTEN: Final = 64


def retrieval_writes(  # noqa: PLR0913, PLR0917 - the options of a command
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    documents: Annotated[
        int, typer.Option(min=1000, max=5_000_000, help="Documents that are stored before.")
    ] = 100_000,
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure p99 of searches while one caller writes without pause ÷ on an idle server."""
    plan = Setup("retrieval-writes", bundle, data, variant, quick, out, rounds)
    size = 2000 if quick else documents
    vectors = Vectors.of(plan, size + size // 4)
    before, new = vectors.documents[:size], vectors.documents[size:]
    seconds = plan.seconds(_SECONDS)
    with served(dense_schema(before.shape[1]), "--segment-documents", str(size)) as one:
        one.upsert(upserts(before))
        one.settle(size)
        one.search(retrieve_requests(vectors.queries))  # warm
        written: list[float] = []
        latencies = alternate(
            plan.rounds,
            {
                "idle": lambda: _searched(one, vectors.queries, seconds),
                "writing": lambda: _while_writing(one, vectors.queries, new, seconds, written),
            },
        )
    p99 = {side: [p(taken, 99) for taken in rounds_] for side, rounds_ in latencies.items()}
    together = {side: [one for taken in rounds_ for one in taken] for side, rounds_ in latencies.items()}
    rows = [[side, "", ms(p(taken, 50)), ms(p(taken, 99))] for side, taken in together.items()]
    rows += [["writing ÷ idle", "", "", f"{ratio(p99['writing'], p99['idle']):.2f}"]]
    rows += [["documents written/s", f"{np.median(written):.0f}", "", ""]]
    figures = {
        **vectors.record(),
        "latencies_s": latencies,
        "p99_s": p99,
        "ratio": ratio(p99["writing"], p99["idle"]),
        "written_per_s": written,
        "documents_a_write": _WRITTEN,
    }
    plan.report(("", "", "p50 ms", "p99 ms"), rows, figures)


def _searched(one: Served, queries: F32, seconds: float) -> list[float]:
    """Return the latencies of queries sent one after the other for so many seconds."""
    requests = retrieve_requests(queries)
    latencies_s: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        latencies_s += one.search(requests)[0]
    return latencies_s


def _while_writing(one: Served, queries: F32, new: F32, seconds: float, written: list[float]) -> list[float]:
    """Search like `_searched` while a thread writes. Append the documents that it wrote per second to `written`."""
    stopped = threading.Event()
    done = [0]

    def write() -> None:
        for request in _without_end(new):
            if stopped.is_set():
                return
            one.client.upsert(request)
            done[0] += len(request.documents)

    writer = threading.Thread(target=write)
    started = time.perf_counter()
    writer.start()
    try:
        return _searched(one, queries, seconds)
    finally:
        stopped.set()
        writer.join()
        written.append(done[0] / (time.perf_counter() - started))


def _without_end(new: F32) -> Iterator[pb.UpsertRequest]:
    """Yield upserts of new documents, then of the same ones again, each of which replaces a document."""
    for start in count(0, _WRITTEN):
        place = start % (len(new) - _WRITTEN)
        yield from upserts(new[place : place + _WRITTEN], first=10_000_000 + place)
