"""How retrieval scales: documents written a second, latency and recall of a search together, memory."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from sluice.cli.console import err
from sluice.client import RetrievalClient, float32_tensor
from sluice.common.v1.document_pb2 import Document
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest import machine, terminal
from loadtest.bench import setup
from loadtest.calls import percentile_s
from loadtest.servers import server

F32 = NDArray[np.float32]

_K: Final = 10
_DEPTH: Final = 100
_DIMENSIONS: Final = 384
_QUERIES: Final = 200
_BATCH: Final = 512
_TIMEOUT_S: Final = 60.0
# The index is built in the background: it is settled when it has not grown for so long.
_SETTLED_S: Final = 3.0
_MOST_SETTLING_S: Final = 120.0
_NAME: Final = "bench"


@dataclass(frozen=True)
class Vectors:
    """Documents [N, D] and queries [Q, D] of unit length, in clusters as embeddings are."""

    documents: F32
    queries: F32

    @classmethod
    def drawn(cls, count: int, seed: int = 1) -> "Vectors":
        """So many documents around one centre for each hundred, and queries around the same centres."""
        chance = np.random.default_rng(seed)
        centres = chance.normal(size=(max(1, count // 100), _DIMENSIONS)).astype(np.float32)
        return cls(_around(centres, count, chance), _around(centres, _QUERIES, chance))

    def nearest(self) -> list[set[int]]:
        """The true k nearest documents of each query."""
        scores = self.queries @ self.documents.T
        return [set(row.tolist()) for row in np.argpartition(-scores, _K, axis=1)[:, :_K]]


def retrieval(
    documents: Annotated[int, typer.Option(min=1000, max=5_000_000, help="Documents of 384 dimensions.")] = 50_000,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Writes a second; p50 and p99 of a search for 100 candidates with its recall@10, once the index has settled."""
    count = min(documents, 2000) if quick else documents
    vectors = Vectors.drawn(count)
    with (
        tempfile.TemporaryDirectory(prefix="sluice-data-") as data,
        server("retrieval", "--data", data) as one,
        RetrievalClient(one.address, timeout_s=_TIMEOUT_S) as client,
    ):
        client.create_collection(_NAME, pb.Schema(dense_fields=[pb.DenseField(name="dense", dimensions=_DIMENSIONS)]))
        started = time.perf_counter()
        for request in _upserts(vectors.documents):
            client.upsert(request)
        written_s = time.perf_counter() - started
        settled_s = _settle(client)
        latencies_s, found = _search(client, vectors.queries)
        statistics = client.collection(_NAME).statistics
        memory = one.memory_bytes()
    recall = mean(len(near & ids) / _K for near, ids in zip(vectors.nearest(), found, strict=True))
    p50, p99 = percentile_s(latencies_s, 50) or 0.0, percentile_s(latencies_s, 99) or 0.0
    row = [str(count), f"{count / written_s:.0f}", f"{settled_s:.0f}", f"{1000 * p50:.1f}", f"{1000 * p99:.1f}"]
    head = ("documents", "writes/s", "settled s", "p50 ms", "p99 ms", "recall@10", "MiB")
    terminal.show_table(head, [[*row, f"{recall:.3f}", f"{memory / 2**20:.0f}"]], title="retrieval")
    figures = {
        "documents": count,
        "dimensions": _DIMENSIONS,
        "depth": _DEPTH,
        "writes_per_s": count / written_s,
        "settled_s": settled_s,
        "latencies_s": latencies_s,
        "p50_s": p50,
        "p99_s": p99,
        "recall_at_10": recall,
        "memory_bytes": memory,
        "indexed_documents": statistics.indexed_document_count,
        "parts": statistics.part_count,
    }
    if quick:
        err.print("--quick: these figures only show that it runs", style="yellow")
    record = {"bench": "retrieval", "figures": figures, **machine.describe()}
    terminal.write_json(out / f"bench-retrieval-{count}{'-quick' if quick else ''}.json", record)


def _around(centres: F32, count: int, chance: np.random.Generator) -> F32:
    chosen = centres[chance.integers(len(centres), size=count)]
    points = chosen + chance.normal(size=chosen.shape).astype(np.float32)
    result: F32 = points / np.linalg.norm(points, axis=1, keepdims=True)
    return result


def _upserts(vectors: F32) -> Iterator[pb.UpsertRequest]:
    for start in range(0, len(vectors), _BATCH):
        part = np.ascontiguousarray(vectors[start : start + _BATCH])
        documents = [Document(document_id=str(start + i), text=f"document {start + i}") for i in range(len(part))]
        column = pb.DenseColumn(field="dense", vectors=float32_tensor(part, axes=2, field="dense"))
        yield pb.UpsertRequest(collection=_NAME, documents=documents, dense=[column])


def _settle(client: RetrievalClient) -> float:
    """Seconds until the index, built in the background, stopped growing."""
    started = changed = time.monotonic()
    last = -1
    while changed + _SETTLED_S > time.monotonic() and time.monotonic() < started + _MOST_SETTLING_S:
        covered = client.collection(_NAME).statistics.indexed_document_count
        if covered != last:
            last, changed = covered, time.monotonic()
        time.sleep(0.1)
    return changed - started


def _search(client: RetrievalClient, queries: F32) -> tuple[list[float], list[set[int]]]:
    """Latencies, and the ids of the first k of each answer."""
    latencies_s: list[float] = []
    found: list[set[int]] = []
    for query in queries:
        asked = pb.FieldQuery(dense=float32_tensor(query, axes=1, field="dense"), depth=_DEPTH)
        request = pb.RetrieveRequest(collection=_NAME, queries=[asked], view=pb.DOCUMENT_VIEW_ID)
        started = time.perf_counter()
        answer = client.retrieve(request)
        latencies_s.append(time.perf_counter() - started)
        found.append({int(id_) for id_ in answer.rankings[0].document_ids[:_K]})
    return latencies_s, found
