"""Which waiting rows run together: a pure queue, fed with time.

Policy: the row that waited longest goes first, so no wait is unbounded. Around it the batch grows by the rows nearest
in length, as long as that raises useful tokens per cost:

    efficiency = sum of lengths / (overhead_tokens + longest * count)

So batches are formed where sharing a run's fixed cost saves more than padding wastes, and no further. Rows that
nobody waits for, or that cannot be done in time, are dropped here, before they cost anything.

Rule: no clock, no threads; `now` and deadlines are seconds on one monotonic clock.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from services.model.cost import Cost

T = TypeVar("T")

_KEY: Final[Callable[["Row[T]"], tuple[int, int]]] = lambda row: (row.length, row.number)  # noqa: E731


@dataclass(slots=True, eq=False)
class Row(Generic[T]):
    """One input that waits for the model."""

    payload: T
    length: int
    """Tokens."""
    arrived: float
    """When it was queued, in seconds."""
    number: int = 0
    """Order of arrival; set by the queue."""
    deadlines: list[float] = field(default_factory=list)
    """When those who wait for it give up, in seconds; empty when nobody waits any more."""

    def alive(self, finish: float) -> bool:
        """Whether somebody still wants it who can have it by `finish`."""
        return any(deadline >= finish for deadline in self.deadlines)


@dataclass(frozen=True)
class Cut(Generic[T]):
    """What to run next, and what to give up."""

    batch: list[Row[T]]
    """Rows to run, longest last; empty when nothing waits."""
    expired: list[Row[T]]
    """Rows that cannot be done in time, or that nobody waits for."""


class BatchQueue(Generic[T]):
    """Rows that wait for one lane of a model.

    max_batch_tokens  most tokens of one batch, padding included; a longer single row runs alone
    max_batch_rows    most rows of one batch
    """

    def __init__(self, *, max_batch_tokens: int, max_batch_rows: int) -> None:
        self._max_tokens = max_batch_tokens
        self._max_rows = max_batch_rows
        self._by_length: list[Row[T]] = []
        self._by_arrival: deque[Row[T]] = deque()
        self._gone: set[int] = set()
        self._count = 0
        self.tokens = 0
        """Tokens that wait."""

    def __len__(self) -> int:
        return len(self._by_length)

    def push(self, row: Row[T]) -> None:
        """Add a row to the end of the queue."""
        self._count += 1
        row.number = self._count
        insort(self._by_length, row, key=_KEY)
        self._by_arrival.append(row)
        self.tokens += row.length

    def cut(self, now: float, cost: Cost) -> Cut[T]:
        """Take the next batch and the rows given up on the way to it."""
        expired: list[Row[T]] = []
        while anchor := self._oldest():
            if not anchor.alive(now + cost.seconds(anchor.length)):
                expired.append(self._take(anchor))
                continue
            return Cut([self._take(row) for row in self._grown(anchor, now, cost)], expired)
        return Cut([], expired)

    def _grown(self, anchor: Row[T], now: float, cost: Cost) -> list[Row[T]]:
        """The batch around the oldest row. Rows that this batch would make late are left for one of their own."""
        rows = self._by_length
        low = bisect_left(rows, _KEY(anchor), key=_KEY)
        high = low + 1
        batch, useful = deque([anchor]), anchor.length
        while len(batch) < self._max_rows:
            side = _nearer(rows, low - 1, high, batch[0].length, batch[-1].length)
            if side is None:
                break
            low, high = (side, high) if side < low else (low, side + 1)
            row = rows[side]
            padded = max(batch[-1].length, row.length) * (len(batch) + 1)
            if not row.alive(now + cost.seconds(padded)):
                continue
            before = useful / (cost.overhead_tokens + batch[-1].length * len(batch))
            if padded > self._max_tokens or (useful + row.length) / (cost.overhead_tokens + padded) < before:
                break
            useful += row.length
            (batch.appendleft if side == low else batch.append)(row)
        return list(batch)

    def _oldest(self) -> Row[T] | None:
        while self._by_arrival and self._by_arrival[0].number in self._gone:
            self._gone.discard(self._by_arrival.popleft().number)
        return self._by_arrival[0] if self._by_arrival else None

    def _take(self, row: Row[T]) -> Row[T]:
        del self._by_length[bisect_left(self._by_length, _KEY(row), key=_KEY)]
        self._gone.add(row.number)
        self.tokens -= row.length
        return row


def _nearer(rows: list[Row[T]], left: int, right: int, shortest: int, longest: int) -> int | None:
    """Which neighbour of a batch is nearer in length: the position of one of them, or None when there is none."""
    if left < 0 and right >= len(rows):
        return None
    if left < 0:
        return right
    if right >= len(rows):
        return left
    return left if shortest - rows[left].length <= rows[right].length - longest else right
