"""A retrieval server with a collection, and searches of it, for the benchmarks."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import grpc
import numpy as np
import psutil
from numpy.typing import NDArray
from sluice.cli.console import CommandFailed
from sluice.client import RetrievalClient, float32_tensor
from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.common.v1.filter_pb2 import Filter
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.channels import CHANNEL_OPTIONS
from loadtest.load.calls import percentile_s
from loadtest.servers import Server, server

F32 = NDArray[np.float32]

RETRIEVE: Final = "/sluice.retrieval.v1.RetrievalService/Retrieve"
COLLECTION: Final = "bench"
FIELD: Final = "dense"
K: Final = 10
_BATCH: Final = 512
_TIMEOUT_S: Final = 600.0
_SETTLED_S: Final = 3.0
# Building takes about 1 ms of a core per vector, and more for long vectors.
_SETTLING_S: Final = 1800.0


@dataclass(frozen=True)
class Served:
    """A server that holds the collection of a benchmark."""

    server: Server
    client: RetrievalClient

    def upsert(self, requests: Iterator[pb.UpsertRequest]) -> float:
        """Write the requests one after the other, and return the seconds it took."""
        started = time.perf_counter()
        for request in requests:
            self.client.upsert(request)
        return time.perf_counter() - started

    @property
    def memory_bytes(self) -> int:
        """Resident memory without mapped files, whose pages the system may reclaim at any time."""
        now = psutil.Process(self.server.pid).memory_info()
        return int(now.rss - now.shared)

    def settle(self, expected: int = 0) -> float:
        """Wait until the background index covers `expected` documents or stops growing, and return the seconds.

        Raises CommandFailed if it covers fewer.
        """
        started = changed = time.monotonic()
        last = -1
        while last < expected or changed + _SETTLED_S > time.monotonic():
            covered = self.client.collection(COLLECTION).statistics.indexed_document_count
            if covered != last:
                last, changed = covered, time.monotonic()
            if time.monotonic() > started + _SETTLING_S:
                raise CommandFailed(f"expected an index of {expected:,} documents, got {last:,}")
            time.sleep(0.1)
        return changed - started

    def search(self, requests: Sequence[pb.RetrieveRequest]) -> tuple[list[float], list[list[set[int]]]]:
        """Search one call after the other. Return the latencies, and the first K documents of each ranking."""
        latencies_s: list[float] = []
        found: list[list[set[int]]] = []
        with grpc.insecure_channel(self.server.address, options=CHANNEL_OPTIONS) as channel:
            call: Any = channel.unary_unary(RETRIEVE)
            for request in (one.SerializeToString() for one in requests):
                started = time.perf_counter()
                answer = call(request, timeout=_TIMEOUT_S)
                latencies_s.append(time.perf_counter() - started)
                rankings = pb.RetrieveResponse.FromString(answer).rankings
                found.append([{int(id_) for id_ in one.document_ids[:K]} for one in rankings])
        return latencies_s, found


@contextmanager
def served(schema: pb.Schema, *arguments: str, data: str = "", tree: Path | None = None) -> Iterator[Served]:
    """Run a server with an empty collection for the block, optionally of another source tree or data folder."""
    with tempfile.TemporaryDirectory(prefix="sluice-data-") as folder:
        flags = ("--data", data or folder, "--recall-sample-every", "0", "--max-deadline-s", "600", *arguments)
        with (
            server("retrieval", *flags, tree=tree) as one,
            RetrievalClient(one.address, timeout_s=_TIMEOUT_S) as client,
        ):
            client.create_collection(COLLECTION, schema)
            yield Served(one, client)


def dense_schema(dimensions: int, **form: Any) -> pb.Schema:
    """Return a schema with one dense field; its coarse format is given as fields of DenseField."""
    return pb.Schema(dense_fields=[pb.DenseField(name=FIELD, dimensions=dimensions, **form)])


def upserts(vectors: F32, first: int = 0, shares: Sequence[float] = ()) -> Iterator[pb.UpsertRequest]:
    """Yield upserts of the vectors. Document ids are positions; `shares` adds a number `share` to each document."""
    for start in range(0, len(vectors), _BATCH):
        part = np.ascontiguousarray(vectors[start : start + _BATCH])
        documents = [Document(document_id=str(first + start + i)) for i in range(len(part))]
        for document, share in zip(documents, shares[start : start + _BATCH], strict=False):
            document.metadata["share"].CopyFrom(MetadataValue(number_value=share))
        column = pb.DenseColumn(field=FIELD, vectors=float32_tensor(part, axes=2, field=FIELD))
        yield pb.UpsertRequest(collection=COLLECTION, documents=documents, dense=[column])


def retrieve_requests(
    queries: F32, batch: int = 1, condition: Filter | None = None, **asked: Any
) -> list[pb.RetrieveRequest]:
    """Return requests with `batch` queries each, for ids alone, with additional fields of FieldQuery."""
    asked = {"depth": K, **asked}
    tensors = [float32_tensor(query, axes=1, field=FIELD) for query in queries]
    return [
        pb.RetrieveRequest(
            collection=COLLECTION,
            queries=[pb.FieldQuery(dense=tensor, **asked) for tensor in tensors[start : start + batch]],
            view=pb.DOCUMENT_VIEW_ID,
            filter=condition,
        )
        for start in range(0, len(tensors), batch)
    ]


def recall(found: Sequence[Sequence[set[int]]], truth: Sequence[set[int]]) -> float:
    """Return the mean share of the true nearest documents that the rankings of all calls contain."""
    rankings = [one for call in found for one in call]
    return mean(len(near & ids) / len(near) for near, ids in zip(truth, rankings, strict=True) if near)


def p(latencies_s: Sequence[float], percent: float) -> float:
    """Return a percentile in seconds."""
    return percentile_s(latencies_s, percent) or 0.0


def ms(seconds: float) -> str:
    """Return milliseconds as text for a table."""
    return f"{1000 * seconds:.2f}"
