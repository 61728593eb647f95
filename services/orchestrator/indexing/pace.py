"""The size of an index stream's batches, and the wait after a rejection.

    a batch of the allowed size is accepted               the next batch may have one document more
    a batch is rejected, or times out                     the next batch has half of its documents, at least one
    no batch is accepted for `patience_s` seconds,
    counted from the first rejection                      the stream ends

Rule: no clock and no random numbers; `now` and `chance` are arguments. Times are in seconds.
Additive increase and multiplicative decrease, as in `concurrency_limit.py`: streams that share a service get equal
shares of it.
"""

from dataclasses import dataclass, field
from typing import Final

from services.rpc.client.retry import wait_s

# The wait doubles with each rejection and reaches its maximum before this many.
_MAX_DOUBLINGS: Final = 16


@dataclass
class Pace:
    """The size of the batches of one stream to one service."""

    max_size: int
    """Most documents of a batch; also the size of the first batch."""
    patience_s: float
    """Seconds to continue while every batch is rejected."""
    size: int = field(init=False)
    """Documents that the next batch may have."""
    _rejections: int = 0
    _rejected_since: float | None = None

    def __post_init__(self) -> None:
        self.size = self.max_size

    def record_accepted(self, count: int) -> None:
        """Record a batch of so many documents that the service accepted."""
        self._rejections, self._rejected_since = 0, None
        if count >= self.size:
            self.size = min(self.max_size, self.size + 1)

    def record_rejected(
        self, count: int, *, now: float, chance: float, asked_s: float | None = None, is_too_much: bool = True
    ) -> float | None:
        """Record a rejected batch of so many documents, and return the seconds to wait; None if patience has ended.

        asked_s      the wait that the service asked for (RetryInfo)
        is_too_much  whether a smaller batch may be accepted; False for a service that is unavailable
        """
        self._rejections += 1
        if self._rejected_since is None:
            self._rejected_since = now
        if is_too_much:
            self.size = max(1, min(self.size, count) // 2)
        left_s = self._rejected_since + self.patience_s - now
        if left_s <= 0:
            return None
        # The last attempt is made when patience ends, however long the service asked to wait.
        return min(left_s, wait_s(min(self._rejections, _MAX_DOUBLINGS), chance=chance, asked_s=asked_s))
