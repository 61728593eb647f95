"""Inverted lists: for each term, the documents that have it and its value there. Immutable.

Terms are int64 keys: hashes of words, or indices of a model's vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import F32, I32, I64


@dataclass(frozen=True)
class Terms:
    """Terms of N documents, ragged: `counts` int64[N] of them each; `keys` int64 and `values` float32 in step."""

    keys: I64
    values: F32
    counts: I64

    @classmethod
    def of(cls, documents: Sequence[tuple[I64, F32]]) -> "Terms":
        """The terms of documents given one by one, as keys and values."""
        keys = [np.empty(0, dtype=np.int64), *(keys for keys, _ in documents)]
        values = [np.empty(0, dtype=np.float32), *(values for _, values in documents)]
        counts = np.array([len(keys) for keys, _ in documents], dtype=np.int64)
        return cls(np.concatenate(keys), np.concatenate(values), counts)


@dataclass(frozen=True)
class Postings:
    """The lists of N documents.

    keys       int64[K], rising
    starts     int64[K + 1]: the list of keys[i] lies in [starts[i], starts[i + 1])
    documents  int32[P], positions of documents, rising within a list
    values     float32[P]
    sums       float32[N], the sum of each document's values
    """

    keys: I64
    starts: I64
    documents: I32
    values: F32
    sums: F32

    @classmethod
    def of(cls, terms: Terms) -> "Postings":
        """The lists of these documents' terms."""
        owners = np.repeat(np.arange(len(terms.counts), dtype=np.int32), terms.counts)
        sums = np.bincount(owners, weights=terms.values, minlength=len(terms.counts)).astype(np.float32)
        return _listed(terms.keys, owners, terms.values, sums)

    def list_of(self, key: int) -> tuple[I32, F32]:
        """Documents that have the term, and its values there."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return self.documents[:0], self.values[:0]
        held = slice(self.starts[place], self.starts[place + 1])
        return self.documents[held], self.values[held]

    def take(self, positions: I64) -> "Postings":
        """The lists of these documents; positions rise."""
        place = np.full(len(self.sums), -1, dtype=np.int32)
        place[positions] = np.arange(len(positions), dtype=np.int32)
        kept = place[self.documents] >= 0
        return _listed(self._expanded()[kept], place[self.documents[kept]], self.values[kept], self.sums[positions])

    def spread(self, positions: I64, count: int) -> "Postings":
        """The lists of `count` documents, of which those at these rising positions are the ones here."""
        sums = np.zeros(count, dtype=np.float32)
        sums[positions] = self.sums
        return replace(self, documents=positions.astype(np.int32)[self.documents], sums=sums)

    @classmethod
    def joined(cls, several: Sequence["Postings"]) -> "Postings":
        """The lists of the documents one after the other."""
        starts = np.cumsum([0, *(len(one.sums) for one in several)])
        return _listed(
            np.concatenate([one._expanded() for one in several]),
            np.concatenate([one.documents + np.int32(start) for one, start in zip(several, starts, strict=False)]),
            np.concatenate([one.values for one in several]),
            np.concatenate([one.sums for one in several]),
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The arrays to save."""
        return dict(vars(self))

    def _expanded(self) -> I64:
        """The key of each entry, int64[P]."""
        return np.repeat(self.keys, np.diff(self.starts))


def _listed(keys: I64, documents: I32, values: F32, sums: F32) -> Postings:
    """The lists of entries in any order of keys, but of rising documents for each key."""
    # A stable sort keeps documents rising, and is linear on the sorted runs that joining makes.
    order = np.argsort(keys, kind="stable")
    unique, starts = np.unique(keys[order], return_index=True)
    ends = np.append(starts, len(keys)).astype(np.int64)
    return Postings(unique, ends, documents[order], values[order], sums)
