"""Inverted lists: for each term, the documents that contain it and its value in each. Immutable.

Terms are int64 keys: hashes of words, or indices of a model's vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import F32, I32, I64
from services.retrieval.domain.vectors import Terms


@dataclass(frozen=True)
class Postings:
    """The inverted lists of N documents.

    keys       int64[K], in ascending order
    starts     int64[K + 1], the list of keys[i] is [starts[i], starts[i + 1])
    documents  int32[P], positions of documents, ascending within a list
    values     float32[P]
    sums       float32[N], the sum of the values of each document
    """

    keys: I64
    starts: I64
    documents: I32
    values: F32
    sums: F32

    @classmethod
    def of(cls, terms: Terms) -> "Postings":
        """Build the lists from the terms of documents."""
        owners = np.repeat(np.arange(len(terms.counts), dtype=np.int32), terms.counts)
        sums = np.bincount(owners, weights=terms.values, minlength=len(terms.counts)).astype(np.float32)
        return _postings(terms.keys, owners, terms.values, sums)

    def list_of(self, key: int) -> tuple[I32, F32]:
        """Return the positions of the documents that contain the term, and its value in each."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return self.documents[:0], self.values[:0]
        entries = slice(self.starts[place], self.starts[place + 1])
        return self.documents[entries], self.values[entries]

    def take(self, positions: I64) -> "Postings":
        """Return the lists of the documents at these positions, which must ascend."""
        place = np.full(len(self.sums), -1, dtype=np.int32)
        place[positions] = np.arange(len(positions), dtype=np.int32)
        kept = place[self.documents] >= 0
        return _postings(self._entry_keys()[kept], place[self.documents[kept]], self.values[kept], self.sums[positions])

    def spread(self, positions: I64, count: int) -> "Postings":
        """Return lists of `count` documents in which these documents have the given positions, which must ascend."""
        sums = np.zeros(count, dtype=np.float32)
        sums[positions] = self.sums
        return replace(self, documents=positions.astype(np.int32)[self.documents], sums=sums)

    @classmethod
    def concatenate(cls, parts: Sequence["Postings"]) -> "Postings":
        """Join the lists of several groups of documents, in order."""
        starts = np.cumsum([0, *(len(part.sums) for part in parts)])
        return _postings(
            np.concatenate([part._entry_keys() for part in parts]),
            np.concatenate([part.documents + np.int32(start) for part, start in zip(parts, starts, strict=False)]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.sums for part in parts]),
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays to save, by name."""
        return dict(vars(self))

    def _entry_keys(self) -> I64:
        """Return the key of each entry, int64[P]."""
        return np.repeat(self.keys, np.diff(self.starts))


def _postings(keys: I64, documents: I32, values: F32, sums: F32) -> Postings:
    """Build lists from entries in any order of keys. The documents of each key must ascend."""
    # A stable sort keeps documents ascending, and is linear on the sorted runs that concatenation makes.
    order = np.argsort(keys, kind="stable")
    unique, starts = np.unique(keys[order], return_index=True)
    ends = np.append(starts, len(keys)).astype(np.int64)
    return Postings(unique, ends, documents[order], values[order], sums)
