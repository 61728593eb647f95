"""How much an index stream sends to a service at once, and how long it waits after a refusal. Pure.

    a batch that is taken, and was as large as allowed     one document more next time
    a batch that is refused, or not done in time           half of it next time, down to one document
    no batch taken for `patience_s`, from the first refusal on    give up

Rule: no clock and no randomness of its own; `now` and `chance` are arguments, times are seconds.
Additive increase and multiplicative decrease, as in `limit.py`: streams that share a service share it evenly.
"""

from dataclasses import dataclass, field
from typing import Final

from services.rpc.client.retry import wait_s

# A doubling wait reaches its longest after so many refusals; more would only make a large power of two.
_MOST_DOUBLINGS: Final = 16


@dataclass
class Pace:
    """The size of the batches of one stream to one service."""

    most: int
    """Most documents of a batch; also what it starts with."""
    patience_s: float
    """How long to go on while every batch is refused."""
    size: int = field(init=False)
    """Documents that the next batch may have."""
    _refusals: int = 0
    _refused_since: float | None = None

    def __post_init__(self) -> None:
        self.size = self.most

    def taken(self, count: int) -> None:
        """Note a batch of so many documents that the service took."""
        self._refusals, self._refused_since = 0, None
        if count >= self.size:
            self.size = min(self.most, self.size + 1)

    def refused(
        self, count: int, *, now: float, chance: float, asked_s: float | None = None, is_too_much: bool = True
    ) -> float | None:
        """Note a refused batch of so many documents; return the seconds to wait, or None when patience has ended.

        asked_s      what the service asked to wait (RetryInfo)
        is_too_much  a smaller batch may be taken; False for a service that is away
        """
        self._refusals += 1
        if self._refused_since is None:
            self._refused_since = now
        if is_too_much:
            self.size = max(1, min(self.size, count) // 2)
        left_s = self._refused_since + self.patience_s - now
        if left_s <= 0:
            return None
        # The last try comes when patience ends, however long the service asked to wait.
        return min(left_s, wait_s(min(self._refusals, _MOST_DOUBLINGS), chance=chance, asked_s=asked_s))
