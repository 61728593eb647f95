"""The approximate index of one field of one segment: vectors in a smaller form, and a graph over them (FAISS HNSW).

Facts: searches may run at the same time, changes may not: so an index never changes once a view shows it. HNSW cannot
remove; who is dead is masked at search. Memory of a vector of D dimensions: 4, 2, 1 or 1/8 byte for each of them, or
for each of the prefix that is held, and about 140 bytes of graph.
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
from services.retrieval.domain.schema import Coarse, DenseField, Metric
from services.retrieval.embedded.index.planner import CONNECTIVITY, EF_CONSTRUCTION, Plan

# Its type stubs know neither keyword parameters nor selectors made from arrays.
faiss: Any = typed_faiss

# Vectors added between two looks at whether to stop: about a second on one core.
_ADD: Final = 1024
# Ranges of the 8-bit codes, and whether lengths are alike, are taken from this many vectors, or fewer that are long.
_TRAIN: Final = 65_536
_TRAIN_BYTES: Final = 1 << 27
# By inner product, long vectors draw every path of the graph to themselves: it is built only when lengths are alike.
_LENGTH_SPREAD_MAX: Final = 1.5

Rows = Callable[[slice], F32]
"""The float32 vectors [n, D] of a slice of the documents."""
IsStopped = Callable[[], bool]


class Stopped(Exception):
    """Building was stopped before its end."""


@dataclass(frozen=True)
class Form:
    """How an index holds vectors: their first `dimensions`, in numbers of type `coarse`."""

    coarse: Coarse
    metric: Metric
    dimensions: int

    @classmethod
    def of(cls, field: DenseField) -> "Form":
        """The form that a field declares."""
        return cls(field.coarse, field.metric, field.coarse_dimensions or field.dimensions)

    @property
    def code_dimensions(self) -> int:
        """Dimensions as FAISS counts them: bits fill whole bytes."""
        return -(-self.dimensions // 8) * 8 if self.coarse is Coarse.B1 else self.dimensions

    def codes(self, vectors: F32) -> F32 | U8:
        """What FAISS takes for vectors float32[N, D]: float32[N, dimensions], or the bytes of bits."""
        if vectors.shape[1] > self.dimensions:
            vectors = prefix(vectors, self.dimensions, unit_length=self.metric is Metric.COSINE)
        return binarize(vectors) if self.coarse is Coarse.B1 else np.ascontiguousarray(vectors)

    def new(self, *, with_graph: bool) -> Any:
        """An empty index of FAISS."""
        dimensions = self.code_dimensions
        if self.coarse is Coarse.B1:
            return faiss.IndexBinaryHNSW(dimensions, CONNECTIVITY)
        kind = faiss.METRIC_L2 if self.metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
        if self.coarse is Coarse.F32:
            # The classes as they are read back from a file, unlike `IndexFlat(dimensions, kind)`.
            flat = faiss.IndexFlatL2 if self.metric is Metric.L2 else faiss.IndexFlatIP
            return faiss.IndexHNSWFlat(dimensions, CONNECTIVITY, kind) if with_graph else flat(dimensions)
        bits = faiss.ScalarQuantizer.QT_8bit if self.coarse is Coarse.I8 else faiss.ScalarQuantizer.QT_fp16
        if with_graph:
            return faiss.IndexHNSWSQ(dimensions, bits, CONNECTIVITY, kind)
        return faiss.IndexScalarQuantizer(dimensions, bits, kind)


class CoarseIndex:
    """Approximate nearest neighbours among the vectors of a segment, by their position in it."""

    def __init__(self, index: Any, form: Form) -> None:
        self._index = index
        self._form = form
        self.has_graph = isinstance(index, faiss.IndexHNSW | faiss.IndexBinaryHNSW)
        downcast = faiss.downcast_IndexBinary if form.coarse is Coarse.B1 else faiss.downcast_index
        self._storage = downcast(index.storage) if self.has_graph else index

    @classmethod
    def of(cls, rows: Rows, count: int, form: Form, is_stopped: IsStopped) -> "CoarseIndex":
        """The index of so many vectors. Raises Stopped."""
        width = rows(slice(0, 1)).nbytes
        sample = rows(slice(0, count, -(-count // min(_TRAIN, _TRAIN_BYTES // width))))
        index = form.new(with_graph=form.metric is not Metric.DOT or _are_alike(norms(sample[:, : form.dimensions])))
        if hasattr(index, "hnsw"):
            index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(form.codes(sample))
        made = cls(index, form)
        made._add(rows, count, is_stopped)
        return made

    def grown(self, rows: Rows, count: int, is_stopped: IsStopped) -> "CoarseIndex":
        """A copy with so many more vectors behind those that are there. Raises Stopped."""
        clone = faiss.clone_binary_index if self._form.coarse is Coarse.B1 else faiss.clone_index
        copy = CoarseIndex(clone(self._index), self._form)
        copy._add(rows, count, is_stopped)
        return copy

    def search(self, vectors: F32, mask: Bool | None, plan: Plan) -> list[I64]:
        """For each query the positions, rising, of what the plan fetches among those the mask lets through.

        vectors  float32[Q, D]
        mask     bool[N]; None lets all through
        """
        # Of this thread alone. Others would be waited for, and searches that run side by side keep the cores busy.
        faiss.omp_set_num_threads(1)
        selector = None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        codes = self._form.codes(vectors)
        if plan.ef is None:
            _, found = self._storage.search(codes, plan.fetch, params=faiss.SearchParameters(sel=selector))
        else:
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=plan.ef)
            _, found = self._index.search(codes, plan.fetch, params=parameters)
        found.sort(axis=1)
        return [row[np.searchsorted(row, 0) :] for row in found]

    def save(self, path: Path) -> None:
        """Write it to a file."""
        write = faiss.write_index_binary if self._form.coarse is Coarse.B1 else faiss.write_index
        write(self._index, str(path))

    @classmethod
    def load(cls, path: Path, form: Form, count: int) -> "CoarseIndex":
        """What `save` wrote, of so many vectors in that form. Raises ValueError when it is something else."""
        read = faiss.read_index_binary if form.coarse is Coarse.B1 else faiss.read_index
        try:
            index = read(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path}: {error}") from error
        expected, found = (form.code_dimensions, count), (index.d, index.ntotal)
        if expected != found or type(index) not in {type(form.new(with_graph=flag)) for flag in (True, False)}:
            raise ValueError(f"{path}: expected {form.coarse} {expected}, found {type(index).__name__} {found}")
        return cls(index, form)

    def _add(self, rows: Rows, count: int, is_stopped: IsStopped) -> None:
        for start in range(0, count, _ADD):
            if is_stopped():
                raise Stopped
            self._index.add(self._form.codes(rows(slice(start, min(count, start + _ADD)))))


def _are_alike(lengths: F64) -> bool:
    return bool(lengths.max() <= _LENGTH_SPREAD_MAX * lengths.min())
