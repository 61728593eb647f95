"""The loads of `compare`: each starts the servers of one source tree and measures their speed.

A load isolates the code of the two commits. `Search` and `Index` call stub services that answer at once; both sides use
the stubs of the work tree. `Retrieve` searches seeded random vectors.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from sluice.cli.console import CommandFailed
from sluice.client import RetrievalClient, SearchClient
from sluice.client.documents import Document
from sluice.search.v1 import search_service_pb2 as search_pb

from loadtest.bench.closed_loop import EMBED, embed_requests, for_seconds
from loadtest.bench.retrieval.collection_server import F32, RETRIEVE, dense_schema, retrieve_requests, served, upserts
from loadtest.load.targets import Texts
from loadtest.servers import Server, server

_SEARCH: Final = "/sluice.search.v1.SearchService/Search"
_TIMEOUT_S: Final = 600.0
_QUERIES_PER_CALL: Final = 16
_DIMENSIONS: Final = 384
_VECTORS: Final = 10_000
_QUICK_VECTORS: Final = 500
_QUERIES: Final = 256
_DOCUMENTS_PER_S: Final = 1000
"""Documents to index per second of a run: about what one system stores on two cores."""

Measure = Callable[[float], float]
"""Measures for about this many seconds, and returns a speed: calls or documents per second."""


@dataclass(frozen=True)
class Compared:
    """The input of the loads, equal for both sides."""

    bundle: Path
    texts: Texts
    quick: bool


Load = Callable[[Compared, Path], AbstractContextManager[Measure]]
"""Starts the servers of a source tree for a block."""


@contextmanager
def _embed(lane: str, batch: int, callers: int, given: Compared, tree: Path) -> Iterator[Measure]:
    texts = given.texts.passages if lane == "bulk" else given.texts.queries
    requests = embed_requests(texts, batch, lane, "document")
    flags = ("--bundles", str(given.bundle.absolute()), "--cache-entries", "0", "--max-deadline-s", "600")
    with server("embedding", *flags, tree=tree) as one:
        yield lambda seconds: for_seconds(one.address, EMBED, requests, callers, seconds).per_second


@contextmanager
def _retrieve(given: Compared, tree: Path) -> Iterator[Measure]:
    """Search the nearest neighbors in one segment, 16 queries per call."""
    vectors = _unit_vectors(_QUICK_VECTORS if given.quick else _VECTORS, seed=1)
    calls = retrieve_requests(_unit_vectors(_QUERIES, seed=2), _QUERIES_PER_CALL)
    requests = [call.SerializeToString() for call in calls]
    with served(dense_schema(_DIMENSIONS), "--segment-documents", str(len(vectors)), tree=tree) as one:
        one.upsert(upserts(vectors))
        one.settle(len(vectors))
        yield lambda seconds: for_seconds(one.server.address, RETRIEVE, requests, 4, seconds).per_second


@contextmanager
def _search(given: Compared, tree: Path) -> Iterator[Measure]:
    """Search by the `fast` pipeline over stubs of the three services."""
    requests = [
        search_pb.SearchRequest(collection="instant", query=query, pipeline="fast").SerializeToString()
        for query in given.texts.queries[:_QUERIES]
    ]
    with (
        server("instant", module="loadtest.bench.stub_services") as instant,
        server("orchestrator", *_downstream(instant, instant, instant), tree=tree) as one,
    ):
        yield lambda seconds: for_seconds(one.address, _SEARCH, requests, 8, seconds).per_second


@contextmanager
def _index(given: Compared, tree: Path) -> Iterator[Measure]:
    """Stream documents through the orchestrator into retrieval, with a stub for embedding."""
    with (
        server("instant", module="loadtest.bench.stub_services") as instant,
        served(dense_schema(_DIMENSIONS), tree=tree) as stored,
        server("orchestrator", *_downstream(instant, instant, stored.server), tree=tree) as one,
    ):
        yield lambda seconds: _documents_per_second(one, stored.client, given.texts, seconds)


def _downstream(embedding: Server, reranking: Server, retrieval: Server) -> list[str]:
    """Return the flags with the addresses of an orchestrator's services."""
    return [
        f"--embedding={embedding.address}",
        f"--reranking={reranking.address}",
        f"--retrieval={retrieval.address}",
    ]


LOADS: Final[Mapping[str, Load]] = {
    "embed-passages": partial(_embed, "bulk", 8, 8),
    "embed-query": partial(_embed, "interactive", 1, 1),
    "retrieve": _retrieve,
    "search": _search,
    "index": _index,
}


def _documents_per_second(orchestrator: Server, retrieval: RetrievalClient, texts: Texts, seconds: float) -> float:
    """Return how many documents per second a stream into a new collection stores. Raises CommandFailed."""
    count = max(int(_DOCUMENTS_PER_S * seconds), 1)
    documents = [
        Document(document_id=str(number), text=texts.passages[number % len(texts.passages)]) for number in range(count)
    ]
    name = f"index-{time.monotonic_ns()}"
    with SearchClient(orchestrator.address, timeout_s=_TIMEOUT_S) as client:
        started = time.perf_counter()
        outcomes = [one.outcome for one in client.index(name, documents, create=True)]
        taken = time.perf_counter() - started
    stored = outcomes.count("indexed")
    if stored != count:
        raise CommandFailed(f"index: expected {count:,} documents to be stored, got {stored:,}")
    retrieval.drop_collection(name)
    return count / taken


def _unit_vectors(count: int, seed: int) -> F32:
    """Return `count` random vectors of unit length, (count, 384) float32."""
    vectors: F32 = np.random.default_rng(seed).standard_normal((count, _DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
