"""Search of a multi-vector field: MaxSim of the query's tokens with those of every document that matches.

In a segment of a field with an encoding, only the best by their encodings are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.core.selection import at_least_kth
from services.retrieval.domain.schema import MultiVectorField
from services.retrieval.embedded.index.fde import encoding_of
from services.retrieval.embedded.index.multi_vectors import Tokens
from services.retrieval.embedded.index.planner import encodings_fetched, plan
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search.scoring import Piece


@dataclass(frozen=True)
class MultiVectorQuery:
    """Token vectors, float32[Q, D], to compare with a multi-vector field. Documents without tokens are not found."""

    field: MultiVectorField
    tokens: F32
    depth: int
    is_exact: bool = False
    oversampling: float | None = None
    """Candidates by the encoding for each of `depth`; None takes the default."""

    @property
    def is_approximate(self) -> bool:
        """Whether it may miss documents that an exact search finds."""
        return self.field.encoding is not None and not self.is_exact

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work, some documents at a time."""
        for part, mask in zip(view.parts, masks, strict=True):
            tokens = part.block.tokens[self.field.name]
            has_tokens = tokens.counts > 0
            without = np.flatnonzero(mask & ~has_tokens)
            yield Piece(part, without[:0], np.empty(0, dtype=np.float32), len(without))
            matching = mask & has_tokens
            positions = self._candidates(tokens, matching)
            decided = int(np.count_nonzero(matching)) - len(positions)
            for chunk in tokens.chunks(positions, len(self.tokens)):
                scores = tokens.scores(self.tokens, chunk)
                best = at_least_kth(scores, self.depth)
                # Those that the encoding left out are decided about with the last chunk.
                is_last = len(chunk) and chunk[-1] == positions[-1]
                yield Piece(part, chunk[best], scores[best], len(chunk) + (decided if is_last else 0))

    def _candidates(self, tokens: Tokens, mask: Bool) -> I64:
        """Positions, rising, of the documents to compare: all that match, or the best by their encodings."""
        matching = int(np.count_nonzero(mask))
        fetch = encodings_fetched(self.depth, self.oversampling)
        if tokens.coarse is None or self.field.encoding is None or self.is_exact or matching <= fetch:
            return np.flatnonzero(mask)
        encoding = encoding_of(self.field.dimensions, self.field.encoding)
        how = plan(total=len(mask), matching=matching, fetch=fetch, has_graph=tokens.coarse.has_graph)
        query = encoding.query(self.tokens)[None]
        return tokens.coarse.search(query, None if matching == len(mask) else mask, how)[0]
