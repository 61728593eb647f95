"""The graph of FAISS that benchmarks of retrieval compare with."""

from typing import Any, Final

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

# Its type stubs have no keyword parameters.
faiss: Any = typed_faiss

_LINKS: Final = 16


def hnsw_index(documents: NDArray[np.float32], *, ef_construction: int) -> Any:
    """Return FAISS's HNSW over documents float32[N, D] of unit length, by inner product."""
    index = faiss.IndexHNSWFlat(documents.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    index.add(documents)
    return index
