"""MUVERA: one vector for a set of token vectors, whose inner product with that of a query estimates MaxSim.

Random hyperplanes partition the space. In each partition, the tokens of a query are summed and those of a document are
averaged. A partition without tokens of the document takes the token from the nearest partition, so tokens of a query
meet a close token of the document. This is repeated with other hyperplanes. Each partition is shortened by a random
projection, and all are concatenated.

Laws: without projections, the estimate is at most the MaxSim of the document, and equal to it for a document of one
token. Projections preserve inner products on average. An encoding depends only on its own tokens.

Source: Dhulipala et al., MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings, 2024, arXiv 2405.19504.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from services.core.arrays import F32, I64, U64

# Tokens that are encoded at a time. Their distances to 256 partitions take 16 MiB.
_TOKENS: Final = 8192


@dataclass(frozen=True)
class FixedDimensionalEncoding:
    """An encoding of token vectors of `dimensions`. Equal parameters give equal encodings on every machine."""

    dimensions: int
    repetitions: int
    partition_bits: int
    projected_dimensions: int
    """Dimensions of each partition. If equal to `dimensions`, nothing is projected."""
    final_dimensions: int
    """Dimensions after a count sketch of the whole encoding; 0 means no sketch."""
    seed: int

    @property
    def length(self) -> int:
        """Dimensions of an encoding."""
        return self.final_dimensions or self._whole

    def query(self, tokens: F32) -> F32:
        """Return the encoding of a query.

        tokens   float32[Q, D]
        returns  float32[length]
        """
        sums = np.zeros((self.repetitions, self._parts, self.projected_dimensions), dtype=np.float32)
        parts = self._parts_of(tokens)
        for repetition in range(self.repetitions):
            np.add.at(sums[repetition], parts[:, repetition], self._project(tokens, repetition))
        encoded: F32 = self._finish(sums.reshape(1, -1))[0]
        return encoded

    def documents(self, tokens: F32, counts: I64) -> F32:
        """Return the encodings of documents, whose tokens are concatenated.

        tokens   float32[sum(counts), D]
        counts   int64[N], tokens of each document; a document without tokens is encoded as zeros
        returns  float32[N, length]
        """
        encoded = np.zeros((len(counts), self.length), dtype=np.float32)
        filled = np.flatnonzero(counts)
        ends = np.cumsum(counts)[filled]
        starts = ends - counts[filled]
        for chunk in np.split(np.arange(len(filled)), np.flatnonzero(np.diff(ends // _TOKENS)) + 1):
            if len(chunk):
                here = slice(starts[chunk[0]], ends[chunk[-1]])
                encoded[filled[chunk]] = self._encode(tokens[here], starts[chunk] - here.start)
        return encoded

    def _encode(self, tokens: F32, starts: I64) -> F32:
        """Return the encodings of documents that all have tokens. `starts` has the positions of their first tokens."""
        shape = (len(starts), self.repetitions, self._parts, self.projected_dimensions)
        blocks = np.empty(shape, dtype=np.float32)
        owners = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(tokens))))
        parts = self._parts_of(tokens)
        for repetition in range(self.repetitions):
            here, projected = parts[:, repetition], self._project(tokens, repetition)
            blocks[:, repetition] = projected[self._nearest(here, starts)]
            places = owners * self._parts + here
            order = np.argsort(places, kind="stable")
            found, firsts, counts = np.unique(places[order], return_index=True, return_counts=True)
            means = np.add.reduceat(projected[order], firsts, axis=0) / counts[:, None].astype(np.float32)
            blocks[found // self._parts, repetition, found % self._parts] = means
        return self._finish(blocks.reshape(len(starts), -1))

    def _nearest(self, parts: I64, starts: I64) -> I64:
        """Return, for each document and partition, the first token whose partition differs in the fewest hyperplanes.

        returns  int64[N, partitions]
        """
        differing = np.bitwise_count(parts[:, None] ^ np.arange(self._parts)).astype(np.int32)
        ranked = differing * np.int32(len(parts)) + np.arange(len(parts), dtype=np.int32)[:, None]
        nearest: I64 = np.minimum.reduceat(ranked, starts, axis=0).astype(np.int64) % len(parts)
        return nearest

    def _parts_of(self, tokens: F32) -> I64:
        """Return the partition of each token, int64[T, repetitions]: a bit for each hyperplane."""
        sides = (tokens @ self._hyperplanes > 0).reshape(len(tokens), self.repetitions, self.partition_bits)
        weights = np.left_shift(1, np.arange(self.partition_bits, dtype=np.int64))
        parts: I64 = sides.astype(np.int64) @ weights
        return parts

    def _project(self, tokens: F32, repetition: int) -> F32:
        if self.projected_dimensions == self.dimensions:
            return tokens
        projected: F32 = tokens @ self._projections[repetition]
        return projected

    def _finish(self, whole: F32) -> F32:
        """Return encodings of the final length, scaled so that inner products are means over the repetitions."""
        scaled = whole * np.float32(1 / np.sqrt(self.repetitions))
        if not self.final_dimensions:
            return scaled
        order, buckets, firsts = self._buckets
        sketch = np.zeros((len(whole), self.final_dimensions), dtype=np.float32)
        sketch[:, buckets] = np.add.reduceat((scaled * self._signs)[:, order], firsts, axis=1)
        return sketch

    @property
    def _parts(self) -> int:
        return 1 << self.partition_bits

    @property
    def _whole(self) -> int:
        return self.repetitions * self._parts * self.projected_dimensions

    @cached_property
    def _hyperplanes(self) -> F32:
        """Normal vectors of the hyperplanes, float32[D, repetitions * bits]: Gaussian, by Box and Muller."""
        count = self.dimensions * self.repetitions * self.partition_bits
        uniform = (_random(self.seed, 0, 2 * count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2 * np.log1p(-uniform[:count]))
        normal = radius * np.cos(2 * np.pi * uniform[count:])
        planes: F32 = normal.reshape(self.dimensions, -1).astype(np.float32)
        return planes

    @cached_property
    def _projections(self) -> F32:
        """Random signs, float32[repetitions, D, projected], scaled so that they preserve inner products on average."""
        shape = (self.repetitions, self.dimensions, self.projected_dimensions)
        signs = _signs(_random(self.seed, 1, self.repetitions * self.dimensions * self.projected_dimensions))
        scaled: F32 = signs.reshape(shape) / np.float32(np.sqrt(self.projected_dimensions))
        return scaled

    @cached_property
    def _buckets(self) -> tuple[I64, I64, I64]:
        """Dimensions ordered by bucket of the sketch, buckets that are not empty, and the first dimension in each."""
        drawn = (_random(self.seed, 2, self._whole) % np.uint64(self.final_dimensions)).astype(np.int64)
        order = np.argsort(drawn, kind="stable")
        buckets, firsts = np.unique(drawn[order], return_index=True)
        return order, buckets, firsts

    @cached_property
    def _signs(self) -> F32:
        return _signs(_random(self.seed, 3, self._whole))


def _random(seed: int, stream: int, count: int) -> U64:
    """Return random numbers, uint64[count].

    The raw numbers of a bit generator stay the same in later versions of numpy; other draws may change.
    """
    drawn: U64 = np.random.PCG64([seed, stream]).random_raw(count)
    return drawn


def _signs(drawn: U64) -> F32:
    """Return 1 or -1 by the highest bit."""
    return np.where(drawn >> np.uint64(63), np.float32(1), np.float32(-1))
