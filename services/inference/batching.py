"""A queue that decides which rows run together. It has no clock and no threads.

Policy: a batch starts with the row that waited longest. It grows by the rows of nearest length among those that waited
longest (the window), as long as that raises the efficiency:

    efficiency = effective tokens of the rows / (overhead_tokens + effective tokens of the rows padded to the longest)

A batch thus grows while sharing a run's fixed cost saves more than padding wastes. A row is overtaken by at most a
window of tokens, so the wait that was estimated at its admission holds. Rows that nobody waits for any more, or that
cannot be done in time, are dropped before they are computed.

Rule: `now` and deadlines are seconds on one monotonic clock.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from services.inference.cost import Cost, Size

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Row(Generic[T]):
    """One input that waits for the model."""

    payload: T
    length: int
    """Tokens."""
    arrived: float
    """Time at which it was queued, in seconds."""
    deadlines: list[float] = field(default_factory=list)
    """Deadlines of the callers that wait for it, in seconds; empty if none does."""

    def alive(self, finish: float) -> bool:
        """Return whether a caller still waits for the row whose deadline is not before `finish`."""
        return any(deadline >= finish for deadline in self.deadlines)


@dataclass(frozen=True)
class BatchDecision(Generic[T]):
    """The rows to run next, and the rows to drop."""

    batch: list[Row[T]]
    """Rows to run, longest last; empty if no row waits."""
    expired: list[Row[T]]
    """Rows that cannot be done in time, or that no caller waits for."""


class BatchQueue(Generic[T]):
    """The rows that wait for one lane of a model.

    max_batch_tokens  most tokens of a batch, including padding; a longer single row runs alone
    max_batch_rows    most rows of a batch
    window_tokens     tokens of the longest-waiting rows from which a batch is chosen
    """

    def __init__(self, *, max_batch_tokens: int, max_batch_rows: int, window_tokens: int) -> None:
        self._max_tokens = max_batch_tokens
        self._max_rows = max_batch_rows
        self._window_tokens = window_tokens
        self._rows: deque[Row[T]] = deque()
        self.size = Size()
        """Size of all waiting rows."""

    def __len__(self) -> int:
        return len(self._rows)

    def push(self, row: Row[T]) -> None:
        """Append a row."""
        self._rows.append(row)
        self.size += Size.of_batch(1, row.length)

    def take(self, now: float, cost: Cost) -> BatchDecision[T]:
        """Remove and return the next batch, and the rows dropped on the way to it."""
        window, expired = self._take_window(now, cost)
        if not window:
            return BatchDecision([], expired)
        batch = self._grow(window, now, cost)
        chosen = set(map(id, batch))
        left = [row for row in window if id(row) not in chosen]
        self._rows.extendleft(reversed(left))
        self.size += Size.of(row.length for row in left)
        return BatchDecision(batch, expired)

    def _take_window(self, now: float, cost: Cost) -> tuple[list[Row[T]], list[Row[T]]]:
        """Remove and return the longest-waiting rows, up to the window's tokens, and the dropped rows."""
        window: list[Row[T]] = []
        expired: list[Row[T]] = []
        tokens = 0
        while self._rows and tokens < self._window_tokens:
            row = self._rows.popleft()
            if row.alive(now + cost.seconds(Size.of_batch(1, row.length))):
                window.append(row)
                tokens += row.length
            else:
                expired.append(row)
        self.size -= Size.of(row.length for row in (*window, *expired))
        return window, expired

    def _grow(self, window: list[Row[T]], now: float, cost: Cost) -> list[Row[T]]:
        """Return the batch around the first row, longest last. Rows that would be late in it stay for a later batch."""
        by_length = sorted(window, key=lambda row: row.length)
        low = next(position for position, row in enumerate(by_length) if row is window[0])
        high = low + 1
        batch, useful = deque([window[0]]), Size.of_batch(1, window[0].length)
        while len(batch) < self._max_rows:
            side = _nearer(by_length, low - 1, high, batch[0].length, batch[-1].length)
            if side is None:
                break
            low, high = (side, high) if side < low else (low, side + 1)
            row = by_length[side]
            padded = Size.of_batch(len(batch) + 1, max(batch[-1].length, row.length))
            if not row.alive(now + cost.seconds(padded)):
                continue
            before = _efficiency(cost, useful, Size.of_batch(len(batch), batch[-1].length))
            useful += Size.of_batch(1, row.length)
            if padded.tokens > self._max_tokens or _efficiency(cost, useful, padded) < before:
                break
            (batch.appendleft if side == low else batch.append)(row)
        return list(batch)


def _efficiency(cost: Cost, useful: Size, padded: Size) -> float:
    return cost.effective_tokens(useful) / (cost.overhead_tokens + cost.effective_tokens(padded))


def _nearer(rows: list[Row[T]], left: int, right: int, shortest: int, longest: int) -> int | None:
    """Return the position of the neighbor that is nearer in length to a batch; None if there is none."""
    if left < 0 and right >= len(rows):
        return None
    if left < 0:
        return right
    if right >= len(rows):
        return left
    return left if shortest - rows[left].length <= rows[right].length - longest else right
