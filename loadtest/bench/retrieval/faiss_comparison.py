"""Benchmark of retrieval over gRPC against the same engine in-process."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray
from sluice.cli.console import CommandFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.bench import setup
from loadtest.bench.closed_loop import for_seconds
from loadtest.bench.retrieval.collection_server import (
    RETRIEVE,
    K,
    Served,
    dense_schema,
    ms,
    p,
    recall,
    retrieve_requests,
    served,
    upserts,
)
from loadtest.bench.retrieval.hnsw import hnsw_index
from loadtest.bench.retrieval.vectors import Vectors
from loadtest.bench.setup import Setup, alternate, ratio

F32 = NDArray[np.float32]

_RECALL: Final = 0.99
_BATCH: Final = 16
_CALLERS: Final = 4
_SECONDS: Final = 10.0
_EF_CONSTRUCTION: Final = 128
_BEAMS: Final = (16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 1024)
# In addition to the default. At depth 10, the beam of the graph is as wide as the number of fetched candidates.
_OVERSAMPLING: Final = (5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)


def retrieval_grpc(  # noqa: PLR0913, PLR0917 - the options of a command
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    documents: Annotated[int, typer.Option(min=1000, max=5_000_000, help="Documents.")] = 100_000,
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Compare queries per second and latency over gRPC with FAISS HNSW f32 in-process at recall@10 >= 0.99."""
    plan = Setup("retrieval-grpc", bundle, data, variant, quick, out, rounds)
    vectors = Vectors.of(plan, 2000 if quick else documents)
    truth = vectors.nearest(K)
    raw = hnsw_index(vectors.documents, ef_construction=_EF_CONSTRUCTION)
    beam = _beam(raw, vectors, truth)
    flags = ("--segment-documents", str(len(vectors.documents)))
    with served(dense_schema(vectors.documents.shape[1]), *flags) as one:
        one.upsert(upserts(vectors.documents))
        one.settle(len(vectors.documents))
        _, found = one.search(retrieve_requests(vectors.queries))
        asked, reached = _asked(one, vectors, truth)
        batched = [request.SerializeToString() for request in retrieve_requests(vectors.queries, _BATCH, **asked)]
        seconds = plan.seconds(_SECONDS)
        per_s = alternate(
            plan.rounds,
            {
                "gRPC": lambda: _over_grpc(one, batched, len(vectors.queries), seconds),
                "in-process": lambda: _in_process(raw, vectors.queries, seconds),
            },
        )
        latencies = _latencies(one, raw, vectors.queries, retrieve_requests(vectors.queries, **asked))
    added = median(a - b for a, b in zip(*latencies, strict=True))
    recalls = (reached, _recall(raw, vectors, truth))
    rows = [
        [side, f"{median(per_s[side]):.0f}", f"{share:.3f}", ms(p(taken, 50)), ms(p(taken, 99))]
        for side, share, taken in zip(per_s, recalls, latencies, strict=True)
    ]
    rows += [
        ["gRPC ÷ in-process", f"{ratio(per_s['gRPC'], per_s['in-process']):.3f}", "", "", ""],
        ["added to one query", "", "", ms(added), ""],
    ]
    figures = {
        **vectors.record(),
        "queries_per_s": per_s,
        "ratio": ratio(per_s["gRPC"], per_s["in-process"]),
        "recall_by_default": recall(found, truth),
        "recall": reached,
        "asked": asked,
        "raw_beam": beam,
        "grpc_s": latencies[0],
        "in_process_s": latencies[1],
        "added_p50_s": added,
        "call": {"queries": _BATCH, "callers": _CALLERS, "depth": K},
    }
    plan.report(("", "queries/s", "recall@10", "one query p50 ms", "p99 ms"), rows, figures)


def _beam(index: Any, vectors: Vectors, truth: Sequence[set[int]]) -> int:
    """Set the narrowest beam that reaches the recall, and return it. Raises CommandFailed if none does."""
    for beam in _BEAMS:
        index.hnsw.efSearch = beam
        if _recall(index, vectors, truth) >= _RECALL:
            return beam
    raise CommandFailed(f"FAISS does not reach recall {_RECALL} with a beam of {_BEAMS[-1]}")


def _recall(index: Any, vectors: Vectors, truth: Sequence[set[int]]) -> float:
    _, found = index.search(vectors.queries, K)
    return recall([[set(row.tolist())] for row in found], truth)


def _asked(one: Served, vectors: Vectors, truth: Sequence[set[int]]) -> tuple[dict[str, Any], float]:
    """Return the cheapest query options that reach the recall, and the recall. Raises CommandFailed if none do."""
    ways: list[dict[str, Any]] = [{}, *({"oversampling": value} for value in _OVERSAMPLING)]
    for way in ways:
        _, found = one.search(retrieve_requests(vectors.queries, _BATCH, **way))
        reached = recall(found, truth)
        if reached >= _RECALL:
            return way, reached
    raise CommandFailed(f"the service does not reach recall {_RECALL} with {ways[-1]}")


def _over_grpc(one: Served, requests: Sequence[bytes], queries: int, seconds: float) -> float:
    """Return the queries per second over gRPC."""
    return for_seconds(one.server.address, RETRIEVE, requests, _CALLERS, seconds).per_second * queries / len(requests)


def _in_process(index: Any, queries: F32, seconds: float) -> float:
    """Return the queries per second of FAISS, all queries in one call with its threads."""
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        index.search(queries, K)
        count += len(queries)
    return count / elapsed


def _latencies(
    one: Served, index: Any, queries: F32, requests: Sequence[pb.RetrieveRequest]
) -> tuple[list[float], list[float]]:
    """Return the seconds of each query alone: over gRPC, and in-process."""
    one.search(requests)  # warm
    over_grpc, _ = one.search(requests)
    in_process = []
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], K)
        in_process.append(time.perf_counter() - started)
    return over_grpc, in_process
