"""Sparse vectors and token vectors of several documents, as ragged arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.core.arrays import F16, F32, I8, I64
from services.core.representation import quantize_int8
from services.retrieval.domain.schema import TokenType


@dataclass(frozen=True)
class Terms:
    """The weighted terms of N documents.

    keys    int64[P], the keys of all documents one after the other
    values  float32[P], the weight of each key
    counts  int64[N], the number of terms of each document
    """

    keys: I64
    values: F32
    counts: I64

    @classmethod
    def of(cls, documents: Sequence[tuple[I64, F32]]) -> "Terms":
        """Join the keys and values of single documents."""
        keys = [np.empty(0, dtype=np.int64), *(keys for keys, _ in documents)]
        values = [np.empty(0, dtype=np.float32), *(values for _, values in documents)]
        counts = np.array([len(keys) for keys, _ in documents], dtype=np.int64)
        return cls(np.concatenate(keys), np.concatenate(values), counts)


@dataclass(frozen=True)
class TokenVectors:
    """The token vectors of N documents, P in all, in half precision or in 8 bits.

    vectors  float16[P, D], or int8[P, D] with scales
    starts   int64[N + 1], document n has the vectors from starts[n] to starts[n + 1]
    scales   float32[P] for int8 vectors: a vector is its integers times its scale
    """

    vectors: F16 | I8
    starts: I64
    scales: F32 | None = None

    @classmethod
    def of(cls, vectors: F16 | I8, counts: I64, scales: F32 | None = None) -> "TokenVectors":
        """Return the vectors of documents with `counts` tokens, int64[N]."""
        return cls(vectors, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)]), scales)

    @classmethod
    def quantize(cls, vectors: F32, counts: I64, kind: TokenType) -> "TokenVectors":
        """Convert vectors, float32[P, D], to the number type in which they are stored."""
        if kind is TokenType.F16:
            return cls.of(vectors.astype(np.float16), counts)
        integers, scales = quantize_int8(vectors)
        return cls.of(integers, counts, scales)

    @property
    def counts(self) -> I64:
        """Number of tokens of each document, int64[N]."""
        return np.diff(self.starts)

    @property
    def floats(self) -> F16 | F32:
        """The vectors with their scales applied, float[P, D]."""
        if self.scales is None:
            return self.vectors  # type: ignore[return-value] # integers have scales
        return self.vectors * self.scales[:, None]

    def take(self, positions: I64) -> "TokenVectors":
        """Return the vectors of the documents at these positions."""
        counts = self.counts[positions]
        within = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = np.repeat(self.starts[positions], counts) + within
        return TokenVectors.of(self.vectors[chosen], counts, None if self.scales is None else self.scales[chosen])

    @classmethod
    def concatenate(cls, parts: Sequence["TokenVectors"]) -> "TokenVectors":
        """Join the documents of several values, in order."""
        scales = [part.scales for part in parts if part.scales is not None]
        return cls.of(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate(scales) if scales else None,
        )
