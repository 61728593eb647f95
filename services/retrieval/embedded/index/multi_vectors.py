"""The searchable token vectors of a multi-vector field, with exact MaxSim scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import F32, I64
from services.core.similarity import maxsim
from services.retrieval.domain.vectors import TokenVectors
from services.retrieval.embedded.index.ann import AnnIndex

# Bytes of token vectors and products in float64 that are scored at a time: 64 MiB, about 20 ms of work.
_CHUNK_BYTES: Final = 1 << 26


@dataclass(frozen=True)
class MultiVectors:
    """The token vectors of N documents. In a segment of a field with an encoding, `ann` indexes the encodings."""

    tokens: TokenVectors
    ann: AnnIndex | None = None

    @property
    def counts(self) -> I64:
        """Number of tokens of each document, int64[N]."""
        return self.tokens.counts

    def take(self, positions: I64) -> "MultiVectors":
        """Return the vectors of the documents at these positions, without the index."""
        return MultiVectors(self.tokens.take(positions))

    @classmethod
    def concatenate(cls, parts: Sequence["MultiVectors"]) -> "MultiVectors":
        """Join the documents of several values in order, without their indexes."""
        return cls(TokenVectors.concatenate([part.tokens for part in parts]))

    def scores(self, query: F32, positions: I64) -> F32:
        """Return MaxSim of a query, float32[Q, D], with each of these documents; -inf for one without tokens."""
        documents = self.tokens.take(positions)
        return maxsim(query, documents.floats, documents.counts)

    def split(self, positions: I64, query_tokens: int) -> list[I64]:
        """Split positions into chunks whose float64 vectors and products take about 64 MiB."""
        size = 8 * (self.tokens.vectors.shape[1] + query_tokens) * np.cumsum(self.counts[positions])
        cuts = np.flatnonzero(np.diff(size // _CHUNK_BYTES)) + 1
        return np.split(positions, cuts)
