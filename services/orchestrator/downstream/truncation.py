"""Counts of what models did not read of texts that exceed their limits."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Truncation:
    """Texts that a model truncated because they exceed its limit."""

    texts: int = 0
    """Number of truncated texts."""
    tokens: int = 0
    """Number of tokens that were dropped from them together."""

    @classmethod
    def of(cls, dropped: Iterable[int]) -> "Truncation":
        """Return the truncation of texts, given the number of dropped tokens of each."""
        counts = [count for count in dropped if count]
        return cls(len(counts), sum(counts))
