"""Search of text and sparse fields by their inverted lists. Always exact."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from services.core.arrays import F32, F64, I32, Bool
from services.core.bm25 import idf, saturation
from services.core.selection import at_least_kth
from services.retrieval.domain.queries import SparseQuery, TextQuery
from services.retrieval.embedded.index.view import LiveBlock, View
from services.retrieval.embedded.search.scoring import ScoredChunk

Weight = Callable[[LiveBlock, I32, F32], F64]
"""Returns what a term adds to the scores of documents, given the part, the documents and the term's values in them."""


def score_text(query: TextQuery, view: View, masks: Sequence[Bool]) -> Iterator[ScoredChunk]:
    """Yield one chunk per part, with BM25 scores."""
    terms = zip(query.keys.tolist(), query.counts.tolist(), strict=True)
    weights = [(key, _bm25(query, view, key, count)) for key, count in terms]
    return _score_parts(view, masks, query.field.name, weights, query.depth)


def score_sparse(query: SparseQuery, view: View, masks: Sequence[Bool]) -> Iterator[ScoredChunk]:
    """Yield one chunk per part, with inner products."""
    weights = [(int(key), _product(float(weight))) for key, weight in zip(query.keys, query.weights, strict=True)]
    return _score_parts(view, masks, query.field.name, weights, query.depth)


def _bm25(query: TextQuery, view: View, key: int, count: int) -> Weight:
    """Return the BM25 weight of a term.

    Document frequency and mean length count live documents only, so that deletions leave no trace.
    """
    field = query.field
    words = sum(part.sum_of(field.name) for part in view.parts)
    frequency = sum(int(part.alive[part.block.postings[field.name].list_of(key)[0]].sum()) for part in view.parts)
    weight = count * idf(view.document_count, frequency)

    def weigh(part: LiveBlock, documents: I32, values: F32) -> F64:
        lengths = part.block.postings[field.name].sums[documents]
        mean = words / view.document_count
        return weight * saturation(values, lengths, mean, k1=field.k1, b=field.b)

    return weigh


def _product(weight: float) -> Weight:
    def weigh(_part: LiveBlock, _documents: I32, values: F32) -> F64:
        return weight * values.astype(np.float64)

    return weigh


def _score_parts(
    view: View, masks: Sequence[Bool], field: str, weights: Sequence[tuple[int, Weight]], depth: int
) -> Iterator[ScoredChunk]:
    for part, mask in zip(view.parts, masks, strict=True):
        yield _score_part(part, mask, field, weights, depth)


def _score_part(
    part: LiveBlock, mask: Bool, field: str, weights: Sequence[tuple[int, Weight]], depth: int
) -> ScoredChunk:
    """Score the documents of a part that contain a term, and return the best ones including ties with the last.

    The terms of each document are added in the order of their keys, so that equal documents get equal scores.
    """
    postings = part.block.postings[field]
    scores = np.zeros(len(mask), dtype=np.float64)
    has_term = np.zeros(len(mask), dtype=np.bool_)
    for key, weigh in weights:
        documents, values = postings.list_of(key)
        scores[documents] += weigh(part, documents, values)
        has_term[documents] = True
    positions = np.flatnonzero(has_term & mask)
    found = scores[positions].astype(np.float32)
    best = at_least_kth(found, depth)
    return ScoredChunk(part, positions[best], found[best], int(np.count_nonzero(mask)))
