"""The approximate index of one dense field of one segment: vectors in 8 bits, and a graph over them (FAISS HNSW).

Facts: searches may run at the same time, changes may not: so an index never changes once a view shows it. HNSW cannot
remove; who is dead is masked at search. Memory for D dimensions: D bytes of codes and about 140 of graph a vector.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import faiss as typed_faiss
import numpy as np

from services.core.arrays import F32, F64, I64, Bool
from services.retrieval.planner import CONNECTIVITY, EF_CONSTRUCTION, Plan
from services.retrieval.schema import Metric

# Its type stubs know neither keyword parameters nor selectors made from arrays.
faiss: Any = typed_faiss

# Vectors added between two looks at whether to stop: about a second on one core.
_ADD: Final = 1024
# Ranges of the 8-bit codes are taken from this many vectors.
_TRAIN: Final = 65_536
# By inner product, long vectors draw every path of the graph to themselves: it is built only when lengths are alike.
_LENGTH_SPREAD_MAX: Final = 1.5


class Stopped(Exception):
    """Building was stopped before its end."""


class CoarseIndex:
    """Approximate nearest neighbours among the vectors of a segment, by their position in it."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.has_graph = isinstance(index, faiss.IndexHNSW)
        self._storage = faiss.downcast_index(index.storage) if self.has_graph else index

    @classmethod
    def of(cls, matrix: F32, lengths: F64, metric: Metric, is_stopped: Callable[[], bool]) -> "CoarseIndex":
        """The index of vectors float32[N, D], with their lengths. Raises Stopped."""
        kind = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
        bits = faiss.ScalarQuantizer.QT_8bit
        if metric is Metric.DOT and lengths.max() > _LENGTH_SPREAD_MAX * lengths.min():
            index = faiss.IndexScalarQuantizer(matrix.shape[1], bits, kind)
        else:
            index = faiss.IndexHNSWSQ(matrix.shape[1], bits, CONNECTIVITY, kind)
            index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(matrix[:: max(1, len(matrix) // _TRAIN)])
        _add(index, matrix, is_stopped)
        return cls(index)

    def grown(self, matrix: F32, is_stopped: Callable[[], bool]) -> "CoarseIndex":
        """A copy with more vectors behind those that are there. Raises Stopped."""
        index = faiss.clone_index(self._index)
        _add(index, matrix, is_stopped)
        return CoarseIndex(index)

    def search(self, vector: F32, mask: Bool, plan: Plan) -> I64:
        """Positions, rising, of the candidates that the plan fetches among those the mask lets through.

        vector  float32[D]
        mask    bool[N]
        """
        selector = None if mask.all() else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if plan.ef is None:
            parameters = faiss.SearchParameters(sel=selector)
            _, found = self._storage.search(vector[None], plan.fetch, params=parameters)
        else:
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=plan.ef)
            _, found = self._index.search(vector[None], plan.fetch, params=parameters)
        positions: I64 = np.sort(found[0][found[0] >= 0])
        return positions

    def save(self, path: Path) -> None:
        """Write it to a file."""
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path) -> "CoarseIndex":
        """What `save` wrote."""
        return cls(faiss.read_index(str(path)))


def _add(index: Any, matrix: F32, is_stopped: Callable[[], bool]) -> None:
    for start in range(0, len(matrix), _ADD):
        if is_stopped():
            raise Stopped
        index.add(np.ascontiguousarray(matrix[start : start + _ADD]))
