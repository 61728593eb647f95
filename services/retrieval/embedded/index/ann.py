"""The approximate index of one field of a segment: vectors in a compact format with a graph over them (FAISS HNSW).

Facts: FAISS allows concurrent searches but no concurrent changes, so an index never changes after a view contains it.
HNSW cannot remove vectors; searches mask deleted documents. A vector of D dimensions takes 4, 2, 1 or 1/8 bytes per
dimension, or per leading dimension that is indexed, and about 140 bytes of graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faiss as typed_faiss
import numpy as np

from services.core.arrays import F32, F64, I64, U8, Bool
from services.core.representation import binarize, prefix
from services.core.similarity import norms
from services.retrieval.cancellation import IsStopped, Stopped
from services.retrieval.domain.schema import CoarseType, DenseField, Metric
from services.retrieval.embedded.index.planner import CONNECTIVITY, EF_CONSTRUCTION, Plan

# The type stubs of FAISS lack keyword parameters and selectors made from arrays.
faiss: Any = typed_faiss

# Vectors added between two checks for cancellation: about one second on one core.
_ADD_ROWS: Final = 1024
# Size of the sample that sets the ranges of 8-bit codes and shows whether vector lengths are similar.
_TRAIN_ROWS: Final = 65_536
_TRAIN_BYTES: Final = 1 << 27
# With inner product, long vectors attract every path of the graph, so a graph needs similar lengths.
_LENGTH_SPREAD_MAX: Final = 1.5

VectorSlices = Callable[[slice], F32]
"""Returns the vectors, float32[n, D], of a slice of the documents."""


@dataclass(frozen=True)
class VectorFormat:
    """How an index holds vectors: the number type, the metric, and the number of leading dimensions."""

    coarse: CoarseType
    metric: Metric
    dimensions: int

    @classmethod
    def of(cls, field: DenseField) -> "VectorFormat":
        """Return the format that a field declares."""
        return cls(field.coarse, field.metric, field.coarse_dimensions or field.dimensions)

    @property
    def code_dimensions(self) -> int:
        """Number of dimensions for FAISS. Bits fill whole bytes."""
        return -(-self.dimensions // 8) * 8 if self.coarse is CoarseType.B1 else self.dimensions

    def encode(self, vectors: F32) -> F32 | U8:
        """Convert vectors, float32[N, D], to the input of FAISS: float32[N, dimensions], or bits packed into bytes."""
        if vectors.shape[1] > self.dimensions:
            vectors = prefix(vectors, self.dimensions, unit_length=self.metric is Metric.COSINE)
        return binarize(vectors) if self.coarse is CoarseType.B1 else np.ascontiguousarray(vectors)

    def new_index(self, *, with_graph: bool) -> Any:
        """Return an empty FAISS index."""
        dimensions = self.code_dimensions
        if self.coarse is CoarseType.B1:
            return faiss.IndexBinaryHNSW(dimensions, CONNECTIVITY)
        kind = faiss.METRIC_L2 if self.metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
        if self.coarse is CoarseType.F32:
            # The classes that FAISS reads from a file, unlike `IndexFlat(dimensions, kind)`.
            flat = faiss.IndexFlatL2 if self.metric is Metric.L2 else faiss.IndexFlatIP
            return faiss.IndexHNSWFlat(dimensions, CONNECTIVITY, kind) if with_graph else flat(dimensions)
        bits = faiss.ScalarQuantizer.QT_8bit if self.coarse is CoarseType.I8 else faiss.ScalarQuantizer.QT_fp16
        if with_graph:
            return faiss.IndexHNSWSQ(dimensions, bits, CONNECTIVITY, kind)
        return faiss.IndexScalarQuantizer(dimensions, bits, kind)


class AnnIndex:
    """Approximate nearest neighbors among the vectors of a segment, by position in the segment."""

    def __init__(self, index: Any, format_: VectorFormat) -> None:
        self._index = index
        self._format = format_
        self.has_graph = isinstance(index, faiss.IndexHNSW | faiss.IndexBinaryHNSW)
        downcast = faiss.downcast_IndexBinary if format_.coarse is CoarseType.B1 else faiss.downcast_index
        self._storage = downcast(index.storage) if self.has_graph else index

    @classmethod
    def build(cls, vectors: VectorSlices, count: int, format_: VectorFormat, is_stopped: IsStopped) -> "AnnIndex":
        """Build the index of `count` vectors. Raises Stopped."""
        width = vectors(slice(0, 1)).nbytes
        sample = vectors(slice(0, count, -(-count // min(_TRAIN_ROWS, _TRAIN_BYTES // width))))
        lengths_matter = format_.metric is Metric.DOT
        with_graph = not lengths_matter or _are_similar(norms(sample[:, : format_.dimensions]))
        index = format_.new_index(with_graph=with_graph)
        if hasattr(index, "hnsw"):
            index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(format_.encode(sample))
        built = cls(index, format_)
        built._add(vectors, count, is_stopped)
        return built

    def extend(self, vectors: VectorSlices, count: int, is_stopped: IsStopped) -> "AnnIndex":
        """Return a copy with `count` more vectors at the end. Raises Stopped."""
        clone = faiss.clone_binary_index if self._format.coarse is CoarseType.B1 else faiss.clone_index
        copy = AnnIndex(clone(self._index), self._format)
        copy._add(vectors, count, is_stopped)
        return copy

    def search(self, vectors: F32, mask: Bool | None, plan: Plan) -> list[I64]:
        """Return for each query the positions that the plan fetches, in ascending order.

        vectors  float32[Q, D]
        mask     bool[N], the documents to search; None searches all
        """
        # Only this thread: waiting for helper threads costs more, and concurrent searches already use all cores.
        faiss.omp_set_num_threads(1)
        selector = None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        codes = self._format.encode(vectors)
        if plan.ef is None:
            _, found = self._storage.search(codes, plan.fetch, params=faiss.SearchParameters(sel=selector))
        else:
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=plan.ef)
            _, found = self._index.search(codes, plan.fetch, params=parameters)
        found.sort(axis=1)
        return [row[np.searchsorted(row, 0) :] for row in found]

    def save(self, path: Path) -> None:
        """Write the index to a file."""
        write = faiss.write_index_binary if self._format.coarse is CoarseType.B1 else faiss.write_index
        write(self._index, str(path))

    @classmethod
    def load(cls, path: Path, format_: VectorFormat, count: int) -> "AnnIndex":
        """Read an index of `count` vectors that `save` wrote. Raises ValueError if the file holds another index."""
        read = faiss.read_index_binary if format_.coarse is CoarseType.B1 else faiss.read_index
        try:
            index = read(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path}: {error}") from error
        expected, found = (format_.code_dimensions, count), (index.d, index.ntotal)
        if expected != found or type(index) not in {type(format_.new_index(with_graph=flag)) for flag in (True, False)}:
            raise ValueError(f"{path}: expected {format_.coarse} {expected}, found {type(index).__name__} {found}")
        return cls(index, format_)

    def _add(self, vectors: VectorSlices, count: int, is_stopped: IsStopped) -> None:
        for start in range(0, count, _ADD_ROWS):
            if is_stopped():
                raise Stopped
            self._index.add(self._format.encode(vectors(slice(start, min(count, start + _ADD_ROWS)))))


def _are_similar(lengths: F64) -> bool:
    return bool(lengths.max() <= _LENGTH_SPREAD_MAX * lengths.min())
