"""Search of a view: coarse candidates of every part, then exact scores for them, then one ranking.

Candidates of a segment come from its coarse index; those of other parts, and of all parts in an exact search, from one
matrix product, which keeps everything that could be among the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.selection import at_least_kth, top_k
from services.core.similarity import F32, Bool, dot, l2, unit
from services.retrieval.columns import I64
from services.retrieval.filters import Filter
from services.retrieval.index import Part, Vectors, View
from services.retrieval.planner import plan
from services.retrieval.schema import DenseField, Metric

# A product of float32 vectors is off by about eps * sqrt(D) of the product of their lengths: 1.1e-5 at 8,192
# dimensions. What is nearer to the k-th score than this is scored exactly before anything is cut.
_COARSE_ERROR: Final = 1.2e-5
# Below this share of matching documents their vectors are gathered first; above, all are multiplied and masked.
_GATHER_SHARE: Final = 0.25


@dataclass(frozen=True)
class Query:
    """A vector, float32[D], to compare with a field, and how many candidates to find."""

    field: DenseField
    vector: F32
    depth: int
    is_exact: bool = False


@dataclass(frozen=True)
class Candidates:
    """What was found, best first; equal scores by lower id. In step: ids, the store's rows, float32 scores."""

    ids: Sequence[str]
    rows: I64
    scores: F32


def search(view: View, query: Query, masks: Sequence[Bool]) -> Candidates:
    """The `depth` most similar documents among those that the masks, one a part, let through."""
    vector = unit(query.vector[None])[0] if query.field.metric is Metric.COSINE else query.vector
    ids: list[str] = []
    rows, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for part, mask in zip(view.parts, masks, strict=True):
        positions = _near_best(part.block.vectors[query.field.name], vector, query, mask)
        ids.extend(part.block.ids[position] for position in positions)
        rows.append(part.block.rows[positions])
        scores.append(_exact(part, vector, query.field, positions))
    best_scores = np.concatenate(scores)
    best = top_k(best_scores, ids, query.depth)
    return Candidates([ids[position] for position in best], np.concatenate(rows)[best], best_scores[best])


def masks_of(view: View, condition: Filter | None) -> list[Bool]:
    """bool[N] for each part: alive, and matching the condition when there is one."""
    if condition is None:
        return [part.alive for part in view.parts]
    return [part.alive & condition.matches(part.block.columns) for part in view.parts]


def rows_of(view: View, masks: Sequence[Bool]) -> I64:
    """The rows that the masks let through."""
    selected = [part.block.rows[mask] for part, mask in zip(view.parts, masks, strict=True)]
    return np.concatenate([np.empty(0, dtype=np.int64), *selected])


def _near_best(vectors: Vectors, vector: F32, query: Query, mask: Bool) -> I64:
    """Positions of the documents that may be among the best by their exact score; of an exact search, all of them."""
    if vectors.coarse is not None and not query.is_exact:
        matching = int(np.count_nonzero(mask))
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
