"""Search of a dense field: coarse candidates of every part, then exact scores for them.

Candidates of a segment come from its coarse index; those of other parts, and of all parts in an exact search, from one
matrix product, which keeps everything that could be among the best.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar, cast

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.core.selection import at_least_kth
from services.core.similarity import dot, l2, unit
from services.retrieval.domain.schema import DenseField, Metric
from services.retrieval.embedded.index.planner import Plan, fetched, plan
from services.retrieval.embedded.index.view import Part, Vectors, View
from services.retrieval.embedded.search.scoring import Piece

# A product of float32 vectors is off by about eps * sqrt(D) of the product of their lengths: 1.1e-5 at 8,192
# dimensions. What is nearer to the k-th score than this is scored exactly before anything is cut.
_COARSE_ERROR: Final = 1.2e-5
# Below this share of matching documents their vectors are gathered first; above, all are multiplied and masked.
_GATHER_SHARE: Final = 0.25
# Queries with a wider beam are searched one by one: the time is not looked at in between.
_TOGETHER_EF_MAX: Final = 512

Q = TypeVar("Q")


@dataclass(frozen=True)
class DenseQuery:
    """A vector, float32[D], to compare with a dense field."""

    field: DenseField
    vector: F32
    depth: int
    is_exact: bool = False
    oversampling: float | None = None
    """Coarse candidates for each of `depth`; None takes the default of the field's coarse form."""
    feedback: tuple[tuple[str, float], ...] = ()
    """Ids and weights of documents that move the vector before it is compared."""
    near: tuple[F32, I64] | None = None
    """The vector as it is compared, and candidates of the segment, when they are known already."""

    @property
    def is_approximate(self) -> bool:
        """Whether it may miss documents that an exact search finds."""
        return not self.is_exact

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work, part by part."""
        vector = self.compared(self.vector[None])[0] if self.near is None else self.near[0]
        for part, mask in zip(view.parts, masks, strict=True):
            matching = part.passing(mask)
            positions = _near_best(part.block.vectors[self.field.name], vector, self, mask, matching)
            scores = _exact(part, vector, self.field, positions)
            best = at_least_kth(scores, self.depth)
            yield Piece(part, positions[best], scores[best], matching)

    def compared(self, vectors: F32) -> F32:
        """Vectors, float32[Q, D], as they are compared with those of the field."""
        return unit(vectors) if self.field.metric is Metric.COSINE else vectors

    def planned(self, vectors: Vectors, total: int, matching: int) -> Plan | None:
        """How its candidates are found in a coarse index; None when there is none, or no need of it."""
        if vectors.coarse is None or self.is_exact:
            return None
        fetch = fetched(self.depth, self.oversampling, self.field.coarse, has_prefix=self.field.has_prefix)
        if matching <= fetch:
            return Plan(matching, None)
        return plan(total=total, matching=matching, fetch=fetch, has_graph=vectors.coarse.has_graph)


def together(queries: Sequence[Q], view: View, masks: Sequence[Bool]) -> list[Q]:
    """The queries; those of a dense field that are asked alike have their candidates of the segment, found in one call.

    A call of FAISS takes some 20 us to prepare, and lets go of the interpreter's lock once, not once a query.
    """
    alike: dict[object, list[int]] = {}
    for place, query in enumerate(queries):
        if isinstance(query, DenseQuery) and not query.is_exact:
            alike.setdefault((query.field, query.depth, query.oversampling), []).append(place)
    found: dict[int, DenseQuery] = {}
    for places in alike.values():
        if len(places) > 1:
            group = [query for place in places if isinstance(query := queries[place], DenseQuery)]
            found.update(zip(places, _found(group, view, masks), strict=True))
    return [cast(Q, found.get(place, query)) for place, query in enumerate(queries)]


def _found(queries: Sequence[DenseQuery], view: View, masks: Sequence[Bool]) -> Sequence[DenseQuery]:
    """Queries that are asked alike, with their candidates when a narrow beam through the segment's graph finds them."""
    first = queries[0]
    for part, mask in zip(view.parts, masks, strict=True):
        vectors, matching = part.block.vectors[first.field.name], part.passing(mask)
        how = first.planned(vectors, len(mask), matching)
        if vectors.coarse is not None and how is not None and how.ef is not None and how.ef <= _TOGETHER_EF_MAX:
            compared = first.compared(np.stack([query.vector for query in queries]))
            found = vectors.coarse.search(compared, None if matching == len(mask) else mask, how)
            near = zip(compared, found, strict=True)
            return [replace(query, near=one) for query, one in zip(queries, near, strict=True)]
    return queries


def _near_best(vectors: Vectors, vector: F32, query: DenseQuery, mask: Bool, matching: int) -> I64:
    """Positions of the documents that may be among the best by their exact score; of an exact search, all of them."""
    how = query.planned(vectors, len(mask), matching)
    if vectors.coarse is not None and how is not None:
        if query.near is not None:
            return query.near[1]
        if how.fetch == matching:
            return np.flatnonzero(mask)
        return vectors.coarse.search(vector[None], None if matching == len(mask) else mask, how)[0]
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
