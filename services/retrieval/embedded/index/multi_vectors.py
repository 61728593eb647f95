"""Token vectors of documents, ragged, in half precision or in 8 bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import F16, F32, I8, I64
from services.core.representation import quantize_int8
from services.core.similarity import maxsim
from services.retrieval.domain.schema import TokenType
from services.retrieval.embedded.index.ann import CoarseIndex

# Token vectors and products in float64 that are compared at a time: 64 MiB, some 20 ms of work.
_CHUNK_BYTES: Final = 1 << 26


@dataclass(frozen=True)
class Tokens:
    """The vectors of N documents, P in all, and where they begin.

    vectors  float16[P, D], or int8[P, D] with scales
    starts   int64[N + 1]: the vectors of document n begin at starts[n]
    scales   float32[P] of int8 vectors: a vector is integers * scale
    coarse   in a segment of a field with an encoding, the index of the documents' encodings
    """

    vectors: F16 | I8
    starts: I64
    scales: F32 | None = None
    coarse: CoarseIndex | None = None

    @classmethod
    def of(cls, vectors: F16 | I8, counts: I64, scales: F32 | None = None) -> "Tokens":
        """The vectors of documents with that many tokens each."""
        return cls(vectors, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)]), scales)

    @classmethod
    def stored(cls, vectors: F32, counts: I64, kind: TokenType) -> "Tokens":
        """Vectors, float32[P, D], as they are stored."""
        if kind is TokenType.F16:
            return cls.of(vectors.astype(np.float16), counts)
        integers, scales = quantize_int8(vectors)
        return cls.of(integers, counts, scales)

    @property
    def counts(self) -> I64:
        """Tokens of each document, int64[N]."""
        return np.diff(self.starts)

    @property
    def floats(self) -> F16 | F32:
        """The vectors as numbers to compare with, float[P, D]."""
        if self.scales is None:
            return self.vectors  # type: ignore[return-value] # integers have scales
        return self.vectors * self.scales[:, None]

    def take(self, positions: I64) -> "Tokens":
        """The vectors of these documents."""
        counts = self.counts[positions]
        within = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(self.starts[positions], counts) + within
        return Tokens.of(self.vectors[places], counts, None if self.scales is None else self.scales[places])

    @classmethod
    def joined(cls, several: Sequence["Tokens"]) -> "Tokens":
        """The documents one after the other."""
        scales = [one.scales for one in several if one.scales is not None]
        return cls.of(
            np.concatenate([one.vectors for one in several]),
            np.concatenate([one.counts for one in several]),
            np.concatenate(scales) if scales else None,
        )

    def scores(self, query: F32, positions: I64) -> F32:
        """MaxSim of a query, float32[Q, D], with each of these documents; -inf for one without tokens."""
        some = self.take(positions)
        return maxsim(query, some.floats, some.counts)

    def chunks(self, positions: I64, query_tokens: int) -> list[I64]:
        """The positions in pieces whose float64 vectors and products stay near _CHUNK_BYTES."""
        size = 8 * (self.vectors.shape[1] + query_tokens) * np.cumsum(self.counts[positions])
        cuts = np.flatnonzero(np.diff(size // _CHUNK_BYTES)) + 1
        return np.split(positions, cuts)
