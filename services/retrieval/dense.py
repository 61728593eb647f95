"""Search of a dense field: coarse candidates of every part, then exact scores for them.

Candidates of a segment come from its coarse index; those of other parts, and of all parts in an exact search, from one
matrix product, which keeps everything that could be among the best.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.core.selection import at_least_kth
from services.core.similarity import dot, l2, unit
from services.retrieval.index import Part, Vectors, View
from services.retrieval.planner import plan
from services.retrieval.schema import DenseField, Metric
from services.retrieval.scoring import Piece

# A product of float32 vectors is off by about eps * sqrt(D) of the product of their lengths: 1.1e-5 at 8,192
# dimensions. What is nearer to the k-th score than this is scored exactly before anything is cut.
_COARSE_ERROR: Final = 1.2e-5
# Below this share of matching documents their vectors are gathered first; above, all are multiplied and masked.
_GATHER_SHARE: Final = 0.25


@dataclass(frozen=True)
class DenseQuery:
    """A vector, float32[D], to compare with a dense field."""

    field: DenseField
    vector: F32
    depth: int
    is_exact: bool = False

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work, part by part."""
        vector = unit(self.vector[None])[0] if self.field.metric is Metric.COSINE else self.vector
        for part, mask in zip(view.parts, masks, strict=True):
            positions = _near_best(part.block.vectors[self.field.name], vector, self, mask)
            yield Piece(part, positions, _exact(part, vector, self.field, positions), int(np.count_nonzero(mask)))


def _near_best(vectors: Vectors, vector: F32, query: DenseQuery, mask: Bool) -> I64:
    """Positions of the documents that may be among the best by their exact score; of an exact search, all of them."""
    if vectors.coarse is not None and not query.is_exact:
        matching = int(np.count_nonzero(mask))
        if not matching:
            return np.empty(0, dtype=np.int64)
        how = plan(total=len(mask), matching=matching, depth=query.depth, has_graph=vectors.coarse.has_graph)
        return vectors.coarse.search(vector, mask, how)
    positions = np.flatnonzero(mask)
    if len(positions) <= query.depth:
        return positions
    length = float(np.linalg.norm(vector.astype(np.float64)))
    longest = vectors.longest
    if len(positions) < _GATHER_SHARE * len(mask):
        vectors = vectors.take(positions)
        scores = _coarse(vectors, vector, query.field.metric, length)
    else:
        scores = _coarse(vectors, vector, query.field.metric, length)[positions]
    # Both scores are off, so twice; the L2 form adds up two squares and twice the product.
    scale = (longest + length) ** 2 if query.field.metric is Metric.L2 else longest * length
    return positions[at_least_kth(scores, query.depth, slack=2 * _COARSE_ERROR * scale)]


def _coarse(vectors: Vectors, vector: F32, metric: Metric, length: float) -> F32:
    """Scores in float32 by BLAS: fast, and off by up to _COARSE_ERROR of the vectors' lengths."""
    products = vectors.matrix @ vector
    if metric is not Metric.L2:
        return products
    return (2 * products - vectors.lengths**2 - length**2).astype(np.float32)


def _exact(part: Part, vector: F32, field: DenseField, positions: I64) -> F32:
    documents = part.block.vectors[field.name].matrix[positions]
    if field.metric is Metric.L2:
        return l2(vector, documents)
    scores = dot(vector, documents)
    return np.clip(scores, -1.0, 1.0) if field.metric is Metric.COSINE else scores
