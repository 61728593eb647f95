"""Search of a multi-vector field: MaxSim of the query's tokens with those of every document that matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.retrieval.index import View
from services.retrieval.schema import MultiVectorField


@dataclass(frozen=True)
class MultiVectorQuery:
    """Token vectors, float32[Q, D], to compare with a multi-vector field. Documents without tokens are not found."""

    field: MultiVectorField
    tokens: F32
    depth: int

    def scored(self, view: View, masks: Sequence[Bool]) -> list[tuple[I64, F32]]:
        """Positions and scores of the candidates in each part, as `search` asks."""
        found = []
        for part, mask in zip(view.parts, masks, strict=True):
            tokens = part.block.tokens[self.field.name]
            positions = np.flatnonzero(mask & (tokens.counts > 0))
            found.append((positions, tokens.scores(self.tokens, positions)))
        return found
