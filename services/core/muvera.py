"""MUVERA: one vector for a set of token vectors, whose inner product with that of a query estimates MaxSim.

Random hyperplanes part the space. A query's tokens are added up in their part, a document's are averaged, and a part
where a document has none takes its token from the nearest part: so the query's tokens meet a token of the document
that lies near them. Repeated with other hyperplanes, each part shortened by a random projection, and all joined.

Laws: without projections the estimate of a document is at most its MaxSim, and equals it for a document of one token;
projections keep inner products on average. An encoding depends on its own tokens alone.

Source: Dhulipala et al., MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings, 2024, arXiv 2405.19504.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from services.core.arrays import F32, I64, U64

# Tokens that are encoded at a time: distances to all of 256 parts are 16 MiB.
_TOKENS: Final = 8192


@dataclass(frozen=True)
class FixedDimensionalEncoding:
    """Encodes token vectors of `dimensions`. The same numbers and seed give the same encoding on every machine."""

    dimensions: int
    repetitions: int
    partition_bits: int
    projected_dimensions: int
    """Of each part; those of the tokens leave them as they are."""
    final_dimensions: int
    """Of the whole, by a count sketch; 0 leaves it as it is."""
    seed: int

    @property
    def length(self) -> int:
        """Dimensions of an encoding."""
        return self.final_dimensions or self._whole

    def query(self, tokens: F32) -> F32:
        """The encoding of a query.

        tokens   float32[Q, D]
        returns  float32[length]
        """
        sums = np.zeros((self.repetitions, self._parts, self.projected_dimensions), dtype=np.float32)
        parts = self._parts_of(tokens)
        for repetition in range(self.repetitions):
            np.add.at(sums[repetition], parts[:, repetition], self._projected(tokens, repetition))
        encoded: F32 = self._finished(sums.reshape(1, -1))[0]
        return encoded

    def documents(self, tokens: F32, counts: I64) -> F32:
        """The encodings of documents, whose tokens lie one document after the other.

        tokens   float32[sum(counts), D]
        counts   int64[N], tokens of each document; one without tokens is encoded as zeros
        returns  float32[N, length]
        """
        encoded = np.zeros((len(counts), self.length), dtype=np.float32)
        filled = np.flatnonzero(counts)
        ends = np.cumsum(counts)[filled]
        starts = ends - counts[filled]
        for chunk in np.split(np.arange(len(filled)), np.flatnonzero(np.diff(ends // _TOKENS)) + 1):
            if len(chunk):
                here = slice(starts[chunk[0]], ends[chunk[-1]])
                encoded[filled[chunk]] = self._encoded(tokens[here], starts[chunk] - here.start)
        return encoded

    def _encoded(self, tokens: F32, starts: I64) -> F32:
        """As `documents`, of such as have tokens, the first of which lie at `starts`."""
        shape = (len(starts), self.repetitions, self._parts, self.projected_dimensions)
        blocks = np.empty(shape, dtype=np.float32)
        owners = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(tokens))))
        parts = self._parts_of(tokens)
        for repetition in range(self.repetitions):
            here, projected = parts[:, repetition], self._projected(tokens, repetition)
            blocks[:, repetition] = projected[self._nearest(here, starts)]
            places = owners * self._parts + here
            order = np.argsort(places, kind="stable")
            found, firsts, counts = np.unique(places[order], return_index=True, return_counts=True)
            means = np.add.reduceat(projected[order], firsts, axis=0) / counts[:, None].astype(np.float32)
            blocks[found // self._parts, repetition, found % self._parts] = means
        return self._finished(blocks.reshape(len(starts), -1))

    def _nearest(self, parts: I64, starts: I64) -> I64:
        """For each document and part the token, the first of those, whose own part differs in the fewest hyperplanes.

        returns  int64[N, parts]
        """
        differing = np.bitwise_count(parts[:, None] ^ np.arange(self._parts)).astype(np.int32)
        ranked = differing * np.int32(len(parts)) + np.arange(len(parts), dtype=np.int32)[:, None]
        nearest: I64 = np.minimum.reduceat(ranked, starts, axis=0).astype(np.int64) % len(parts)
        return nearest

    def _parts_of(self, tokens: F32) -> I64:
        """The part that each token lies in, int64[P, repetitions]: a bit for each hyperplane."""
        sides = (tokens @ self._hyperplanes > 0).reshape(len(tokens), self.repetitions, self.partition_bits)
        weights = np.left_shift(1, np.arange(self.partition_bits, dtype=np.int64))
        parts: I64 = sides.astype(np.int64) @ weights
        return parts

    def _projected(self, tokens: F32, repetition: int) -> F32:
        if self.projected_dimensions == self.dimensions:
            return tokens
        projected: F32 = tokens @ self._projections[repetition]
        return projected

    def _finished(self, whole: F32) -> F32:
        """The encodings at their last length, and so that an inner product is the mean over the repetitions."""
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
        """Normal vectors, float32[D, repetitions * bits]: Gaussian, by Box and Muller."""
        count = self.dimensions * self.repetitions * self.partition_bits
        uniform = (_drawn(self.seed, 0, 2 * count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2 * np.log1p(-uniform[:count]))
        normal = radius * np.cos(2 * np.pi * uniform[count:])
        planes: F32 = normal.reshape(self.dimensions, -1).astype(np.float32)
        return planes

    @cached_property
    def _projections(self) -> F32:
        """float32[repetitions, D, projected]: signs, scaled so that they keep inner products on average."""
        shape = (self.repetitions, self.dimensions, self.projected_dimensions)
        signs = _signs(_drawn(self.seed, 1, self.repetitions * self.dimensions * self.projected_dimensions))
        scaled: F32 = signs.reshape(shape) / np.float32(np.sqrt(self.projected_dimensions))
        return scaled

    @cached_property
    def _buckets(self) -> tuple[I64, I64, I64]:
        """Dimensions by the bucket of the sketch they fall into, the buckets that have any, and the first in each."""
        drawn = (_drawn(self.seed, 2, self._whole) % np.uint64(self.final_dimensions)).astype(np.int64)
        order = np.argsort(drawn, kind="stable")
        buckets, firsts = np.unique(drawn[order], return_index=True)
        return order, buckets, firsts

    @cached_property
    def _signs(self) -> F32:
        return _signs(_drawn(self.seed, 3, self._whole))


def _drawn(seed: int, stream: int, count: int) -> U64:
    """uint64[count]. The raw numbers of a bit generator stay the same in later versions of numpy; draws may not."""
    drawn: U64 = np.random.PCG64([seed, stream]).random_raw(count)
    return drawn


def _signs(drawn: U64) -> F32:
    """1 and -1 by the highest bit."""
    return np.where(drawn >> np.uint64(63), np.float32(1), np.float32(-1))
