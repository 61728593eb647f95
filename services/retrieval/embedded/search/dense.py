"""Search of a dense field: coarse candidates from every part, then their exact scores.

The candidates of a segment come from its approximate index. The candidates of other parts, and of all parts in an exact
search, come from one matrix product, which keeps every document that could be among the best.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.core.selection import at_least_kth
from services.core.similarity import dot, l2, unit
from services.retrieval.domain.queries import CascadeQuery, DenseQuery, Query
from services.retrieval.domain.schema import DenseField, Metric
from services.retrieval.embedded.index.planner import Plan, candidates_to_fetch, plan
from services.retrieval.embedded.index.view import DenseVectors, LiveBlock, View
from services.retrieval.embedded.search.scoring import ScoredChunk

# The error of a product of float32 vectors is about eps * sqrt(D) of the product of their lengths: 1.1e-5 at 8,192
# dimensions. Documents whose coarse score is closer to the k-th best than this are scored exactly before the cut.
_COARSE_ERROR: Final = 1.2e-5
# Below this share of matching documents their vectors are gathered first; above it all are multiplied and masked.
_GATHER_SHARE: Final = 0.25
# Queries with a wider beam are searched one by one, because a joint search cannot check its time between queries.
_PREFETCH_EF_MAX: Final = 512


@dataclass(frozen=True)
class Prefetch:
    """The coarse candidates of a query in the segment, as positions, and its vector prepared for comparison."""

    vector: F32
    positions: I64


def prefetch_candidates(
    queries: Sequence[Query | CascadeQuery], view: View, masks: Sequence[Bool]
) -> Mapping[int, Prefetch]:
    """Search the segment jointly for queries of the same field and depth, and return the results by query index.

    A call of FAISS has about 20 us of overhead and releases the interpreter's lock once per call, not once per query.
    """
    groups: dict[object, list[int]] = {}
    for index, query in enumerate(queries):
        if isinstance(query, DenseQuery) and not query.is_exact:
            groups.setdefault((query.field, query.depth, query.oversampling), []).append(index)
    prefetched: dict[int, Prefetch] = {}
    for indices in groups.values():
        if len(indices) > 1:
            group = [query for index in indices if isinstance(query := queries[index], DenseQuery)]
            prefetched.update(zip(indices, _prefetch(group, view, masks), strict=False))
    return prefetched


def score_in_chunks(
    query: DenseQuery, view: View, masks: Sequence[Bool], prefetch: Prefetch | None
) -> Iterator[ScoredChunk]:
    """Yield one chunk per part."""
    vector = _prepare(query.field, query.vector[None])[0] if prefetch is None else prefetch.vector
    for part, mask in zip(view.parts, masks, strict=True):
        matching = part.count_within(mask)
        vectors = part.block.vectors[query.field.name]
        positions = _candidates(vectors, vector, query, mask, matching, prefetch)
        scores = _exact_scores(part, vector, query.field, positions)
        best = at_least_kth(scores, query.depth)
        yield ScoredChunk(part, positions[best], scores[best], matching)


def _prefetch(queries: Sequence[DenseQuery], view: View, masks: Sequence[Bool]) -> list[Prefetch]:
    """Search the graph of the segment for similar queries; return nothing without a graph or with a wide beam."""
    first = queries[0]
    for part, mask in zip(view.parts, masks, strict=True):
        vectors, matching = part.block.vectors[first.field.name], part.count_within(mask)
        chosen = _plan(first, vectors, len(mask), matching)
        if vectors.ann is not None and chosen is not None and chosen.ef is not None and chosen.ef <= _PREFETCH_EF_MAX:
            prepared = _prepare(first.field, np.stack([query.vector for query in queries]))
            found = vectors.ann.search(prepared, None if matching == len(mask) else mask, chosen)
            return list(map(Prefetch, prepared, found))
    return []


def _prepare(field: DenseField, vectors: F32) -> F32:
    """Prepare the vectors of queries, float32[Q, D], for comparison with a field."""
    return unit(vectors) if field.metric is Metric.COSINE else vectors


def _plan(query: DenseQuery, vectors: DenseVectors, total: int, matching: int) -> Plan | None:
    """Return how to search the approximate index; None without an index or for an exact search."""
    if vectors.ann is None or query.is_exact:
        return None
    field = query.field
    fetch = candidates_to_fetch(query.depth, query.oversampling, field.coarse, has_prefix=field.has_prefix)
    if matching <= fetch:
        return Plan(matching, None)
    return plan(total=total, matching=matching, fetch=fetch, has_graph=vectors.ann.has_graph)


def _candidates(
    vectors: DenseVectors, vector: F32, query: DenseQuery, mask: Bool, matching: int, prefetch: Prefetch | None
) -> I64:
    """Return the positions of the documents that may be among the best by exact score."""
    chosen = _plan(query, vectors, len(mask), matching)
    if vectors.ann is None or chosen is None:
        return _scan(vectors, vector, query, mask)
    if prefetch is not None:
        return prefetch.positions
    if chosen.fetch == matching:
        return np.flatnonzero(mask)
    return vectors.ann.search(vector[None], None if matching == len(mask) else mask, chosen)[0]


def _scan(vectors: DenseVectors, vector: F32, query: DenseQuery, mask: Bool) -> I64:
    """Compare all documents within the mask, and return those that may be among the best by exact score."""
    positions = np.flatnonzero(mask)
    if len(positions) <= query.depth:
        return positions
    length = float(np.linalg.norm(vector.astype(np.float64)))
    longest = vectors.longest
    if len(positions) < _GATHER_SHARE * len(mask):
        vectors = vectors.take(positions)
        scores = _coarse_scores(vectors, vector, query.field.metric, length)
    else:
        scores = _coarse_scores(vectors, vector, query.field.metric, length)[positions]
    # Twice, because both scores have the error. The L2 form adds two squares and twice the product.
    scale = (longest + length) ** 2 if query.field.metric is Metric.L2 else longest * length
    return positions[at_least_kth(scores, query.depth, slack=2 * _COARSE_ERROR * scale)]


def _coarse_scores(vectors: DenseVectors, vector: F32, metric: Metric, length: float) -> F32:
    """Return fast float32 scores by BLAS, with an error of up to _COARSE_ERROR relative to the vectors' lengths."""
    products = vectors.matrix @ vector
    if metric is not Metric.L2:
        return products
    return (2 * products - vectors.lengths**2 - length**2).astype(np.float32)


def _exact_scores(part: LiveBlock, vector: F32, field: DenseField, positions: I64) -> F32:
    documents = part.block.vectors[field.name].matrix[positions]
    if field.metric is Metric.L2:
        return l2(vector, documents)
    scores = dot(vector, documents)
    return np.clip(scores, -1.0, 1.0) if field.metric is Metric.COSINE else scores
