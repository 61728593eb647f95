"""Token vectors of documents, ragged and in half precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import F16, F32, I64
from services.core.similarity import maxsim

# Token vectors and products in float64 that are compared at a time: 64 MiB, some 20 ms of work.
_CHUNK_BYTES: Final = 1 << 26


@dataclass(frozen=True)
class Tokens:
    """The vectors of N documents: float16[P, D], and `starts` int64[N + 1]: those of document n begin at starts[n]."""

    vectors: F16
    starts: I64

    @classmethod
    def of(cls, vectors: F16, counts: I64) -> "Tokens":
        """The vectors of documents with that many tokens each."""
        return cls(vectors, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)]))

    @property
    def counts(self) -> I64:
        """Tokens of each document, int64[N]."""
        return np.diff(self.starts)

    def take(self, positions: I64) -> "Tokens":
        """The vectors of these documents."""
        counts = self.counts[positions]
        within = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        return Tokens.of(self.vectors[np.repeat(self.starts[positions], counts) + within], counts)

    @classmethod
    def joined(cls, several: Sequence["Tokens"]) -> "Tokens":
        """The documents one after the other."""
        return cls.of(np.concatenate([one.vectors for one in several]), np.concatenate([one.counts for one in several]))

    def scores(self, query: F32, positions: I64) -> F32:
        """MaxSim of a query, float32[Q, D], with each of these documents; -inf for one without tokens."""
        some = self.take(positions)
        return maxsim(query, some.vectors, some.counts)

    def chunks(self, positions: I64, query_tokens: int) -> list[I64]:
        """The positions in pieces whose float64 vectors and products stay near _CHUNK_BYTES."""
        size = 8 * (self.vectors.shape[1] + query_tokens) * np.cumsum(self.counts[positions])
        cuts = np.flatnonzero(np.diff(size // _CHUNK_BYTES)) + 1
        return np.split(positions, cuts)
