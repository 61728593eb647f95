"""Search of a multi-vector field: MaxSim of the query's tokens with those of every document that matches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.core.arrays import F32, Bool
from services.core.selection import at_least_kth
from services.retrieval.index import View
from services.retrieval.schema import MultiVectorField
from services.retrieval.scoring import Piece


@dataclass(frozen=True)
class MultiVectorQuery:
    """Token vectors, float32[Q, D], to compare with a multi-vector field. Documents without tokens are not found."""

    field: MultiVectorField
    tokens: F32
    depth: int

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work, some documents at a time."""
        for part, mask in zip(view.parts, masks, strict=True):
            tokens = part.block.tokens[self.field.name]
            without = np.flatnonzero(mask & (tokens.counts == 0))
            yield Piece(part, without[:0], np.empty(0, dtype=np.float32), len(without))
            positions = np.flatnonzero(mask & (tokens.counts > 0))
            for chunk in tokens.chunks(positions, len(self.tokens)):
                scores = tokens.scores(self.tokens, chunk)
                best = at_least_kth(scores, self.depth)
                yield Piece(part, chunk[best], scores[best], len(chunk))
