"""Search of text and sparse fields by their inverted lists: always exact, over the living documents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.core.arrays import F32, F64, I32, I64, Bool
from services.core.bm25 import idf, saturation
from services.core.selection import at_least_kth
from services.retrieval.domain.schema import SparseField, TextField
from services.retrieval.embedded.index.view import Part, View
from services.retrieval.embedded.search.scoring import Piece

# What a term adds to the scores of the documents that have it: (part, documents, values in the list) -> float64.
Weigh = Callable[[Part, I32, F32], F64]


@dataclass(frozen=True)
class TextQuery:
    """Words, by their keys in rising order and how often each was given, to find by BM25."""

    field: TextField
    keys: I64
    counts: I64
    depth: int

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work, part by part."""
        given = zip(self.keys.tolist(), self.counts.tolist(), strict=True)
        weighed = [(key, self._weigh(view, key, count)) for key, count in given]
        return _pieces(view, masks, self.field.name, weighed, self.depth)

    def _weigh(self, view: View, key: int, count: int) -> Weigh:
        """Document frequency and mean length are those of the living documents, so that deleting leaves no trace."""
        name = self.field.name
        words = sum(part.words(name) for part in view.parts)
        having = sum(int(part.alive[part.block.postings[name].list_of(key)[0]].sum()) for part in view.parts)
        weight = count * idf(view.document_count, having)

        def weigh(part: Part, documents: I32, values: F32) -> F64:
            lengths = part.block.postings[name].sums[documents]
            mean = words / view.document_count
            return weight * saturation(values, lengths, mean, k1=self.field.k1, b=self.field.b)

        return weigh


@dataclass(frozen=True)
class SparseQuery:
    """Weighted terms, keys in rising order, to compare with a sparse field by inner product."""

    field: SparseField
    keys: I64
    weights: F32
    depth: int

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work, part by part."""
        weighed = [(int(key), _times(float(weight))) for key, weight in zip(self.keys, self.weights, strict=True)]
        return _pieces(view, masks, self.field.name, weighed, self.depth)


def _times(weight: float) -> Weigh:
    def weigh(_part: Part, _documents: I32, values: F32) -> F64:
        return weight * values.astype(np.float64)

    return weigh


def _pieces(
    view: View, masks: Sequence[Bool], field: str, weighed: Sequence[tuple[int, Weigh]], depth: int
) -> Iterator[Piece]:
    for part, mask in zip(view.parts, masks, strict=True):
        yield _piece(part, mask, field, weighed, depth)


def _piece(part: Part, mask: Bool, field: str, weighed: Sequence[tuple[int, Weigh]], depth: int) -> Piece:
    """The best documents of a part that have a term; ties with the last of them included.

    Each document's terms are added in the order of their keys, so equal documents score equally.
    """
    postings = part.block.postings[field]
    scores = np.zeros(len(mask), dtype=np.float64)
    has_term = np.zeros(len(mask), dtype=np.bool_)
    for key, weigh in weighed:
        documents, values = postings.list_of(key)
        scores[documents] += weigh(part, documents, values)
        has_term[documents] = True
    positions = np.flatnonzero(has_term & mask)
    found = scores[positions].astype(np.float32)
    best = at_least_kth(found, depth)
    return Piece(part, positions[best], found[best], int(np.count_nonzero(mask)))
