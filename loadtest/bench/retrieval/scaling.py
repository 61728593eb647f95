"""Benchmarks of retrieval by collection size and by vector format: memory, recall, latency, build and start."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import faiss
import numpy as np
import typer
from numpy.typing import NDArray
from sluice.common.v1 import tensor_pb2 as tns

from loadtest.bench import setup
from loadtest.bench.retrieval.collection_server import (
    K,
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
from loadtest.bench.setup import Setup

F32 = NDArray[np.float32]

_QUICK: Final = 2000
FORMS: Final[Mapping[str, tuple[tns.DataType.ValueType, float]]] = {
    "f32": (tns.DATA_TYPE_FLOAT32, 1.0),
    "f16": (tns.DATA_TYPE_FLOAT16, 1.0),
    "i8": (tns.DATA_TYPE_INT8, 1.0),
    "b1": (tns.DATA_TYPE_BITS, 1.0),
    "f16, 2/3 prefix": (tns.DATA_TYPE_FLOAT16, 2 / 3),
    "i8, 2/3 prefix": (tns.DATA_TYPE_INT8, 2 / 3),
    "i8, 1/2 prefix": (tns.DATA_TYPE_INT8, 1 / 2),
}
"""Coarse type, and share of the dimensions that the index holds."""


def retrieval(
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    documents: Annotated[
        list[int] | None, typer.Option(min=1000, max=5_000_000, help="Number of documents; may repeat.")
    ] = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure by collection size: writes per second, build time, memory, latency, recall, and time to restart."""
    plan = Setup("retrieval", bundle, data, variant, quick, out)
    sizes = [_QUICK] if quick else documents or [10_000, 100_000]
    empty = _empty_bytes(16)
    measured = []
    for size in sizes:
        vectors = Vectors.of(plan, size)
        measured.append(vectors.record() | _measured(vectors, empty))
    head = ("documents", "", "writes/s", "build s", "B/vector", "recall@10", "p50 ms", "p99 ms", "ready s")
    plan.report(head, [[f"{one['documents']:,}", *_cells(one)] for one in measured], {"sizes": measured})


def retrieval_forms(
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    documents: Annotated[int, typer.Option(min=1000, max=5_000_000, help="Number of documents.")] = 100_000,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure by vector format: bytes per vector ÷ FAISS HNSW f32, recall after exact rescoring, latency."""
    plan = Setup("retrieval-forms", bundle, data, variant, quick, out)
    vectors = Vectors.of(plan, _QUICK if quick else documents)
    reference = _graph_bytes(vectors.documents)
    empty = _empty_bytes(vectors.documents.shape[1])
    forms = list(FORMS)[::3] if quick else list(FORMS)
    measured = {}
    for form in forms:
        coarse, share = FORMS[form]
        held = int(share * vectors.documents.shape[1])
        measured[form] = _measured(vectors, empty, coarse=coarse, coarse_dimensions=held)
    rows = [[form, f"{one['bytes_a_vector'] / reference:.3f}", *_cells(one)[1:]] for form, one in measured.items()]
    head = ("form", "÷ HNSW f32", "writes/s", "build s", "B/vector", "recall@10", "p50 ms", "p99 ms", "ready s")
    plan.report(head, rows, {**vectors.record(), "hnsw_f32_bytes_a_vector": reference, "forms": measured})


def _measured(vectors: Vectors, empty_bytes: int, **form: Any) -> dict[str, Any]:
    """Fill a collection and measure it after a restart, so that memory does not include what building needed."""
    count, dimensions = vectors.documents.shape
    schema = dense_schema(dimensions, **form)
    flags = ("--segment-documents", str(count))
    with tempfile.TemporaryDirectory(prefix="sluice-data-") as folder:
        with served(schema, *flags, data=folder) as one:
            written_s = one.upsert(upserts(vectors.documents))
            built_s = one.settle(count)
        with served(schema, *flags, data=folder) as one:
            requests = retrieve_requests(vectors.queries)
            one.search(requests)  # loads the files' pages
            latencies_s, found = one.search(requests)
            ready_s, memory = one.server.ready_s, one.memory_bytes
    return {
        "writes_per_s": count / written_s,
        "built_s": built_s,
        "bytes_a_vector": (memory - empty_bytes) / count,
        "memory_bytes": memory,
        "recall_at_10": recall(found, vectors.nearest(K)),
        "latencies_s": latencies_s,
        "p50_s": p(latencies_s, 50),
        "p99_s": p(latencies_s, 99),
        "ready_s": ready_s,
    }


def _cells(one: Mapping[str, Any]) -> Sequence[str]:
    figures = (f"{one['writes_per_s']:.0f}", f"{one['built_s']:.1f}", f"{one['bytes_a_vector']:.0f}")
    speed = (f"{one['recall_at_10']:.3f}", ms(one["p50_s"]), ms(one["p99_s"]), f"{one['ready_s']:.2f}")
    return ["", *figures, *speed]


def _empty_bytes(dimensions: int) -> int:
    """Return the memory of a server that has searched a collection of one document."""
    vectors = np.ones((1, dimensions), dtype=np.float32)
    with served(dense_schema(dimensions)) as one:
        one.upsert(upserts(vectors))
        one.search(retrieve_requests(vectors))
        return one.memory_bytes


def _graph_bytes(documents: F32) -> float:
    """Return the bytes per vector of FAISS HNSW f32 as saved: its vectors and the links of its graph."""
    index = hnsw_index(documents, ef_construction=40)  # the size does not depend on it
    return len(faiss.serialize_index(index)) / len(documents)
