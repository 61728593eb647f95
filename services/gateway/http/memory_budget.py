"""Memory that requests hold together, and what happens when it is used up.

bodies    what came, what JSON becomes in memory, documents without acknowledgement. Beyond it: 503
answers   vectors on their way into an answer, and answers that are not read yet. Beyond it the answer that was not read
          for the longest time is cut; when all are being read, the new request gets 503
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Unavailable

from services.gateway.http.errors import HttpError

# A reader that took nothing for this long may lose its answer to others.
_STALLED_S: Final = 1.0


def _kept() -> None:
    """Nothing to cut."""


@dataclass(eq=False)
class MemoryShare:
    """What one request holds of a budget."""

    budget: "MemoryBudget"
    cut: Callable[[], None] = _kept
    """Ends a request whose caller reads nothing."""
    held_bytes: int = 0
    waits_since: float | None = None
    """When the caller was last given bytes that it has not taken; None while there are none."""

    def resize(self, held_bytes: int) -> None:
        """Hold so many bytes from now on. Raises Unavailable when there is no room now, Refused when there never is."""
        if held_bytes > self.budget.max_bytes:
            most = self.budget.max_bytes
            raise HttpError(413, f"{self.budget.what}: expected at most {most:,} bytes of memory, got {held_bytes:,}")
        if held_bytes > self.held_bytes:
            self.budget.make_room(held_bytes - self.held_bytes, monotonic())
        self.budget.held_bytes += held_bytes - self.held_bytes
        self.budget.freed_bytes += max(0, self.held_bytes - held_bytes)
        self.held_bytes = held_bytes

    def add(self, more_bytes: int) -> None:
        """Hold so many bytes more. Raises Unavailable."""
        self.resize(self.held_bytes + more_bytes)


class StreamMemory:
    """What a stream of documents holds: what it has read, and documents without acknowledgement."""

    # Each is there as a document, in the message that carries it, and in what gRPC has not sent yet.
    _COPIES: Final = 3

    def __init__(self, share: MemoryShare) -> None:
        self._share = share
        self._first_bytes = share.held_bytes
        self._read_bytes = self._waiting_bytes = 0

    def read(self, held_bytes: int) -> None:
        """Note how much of the body is held. Raises Unavailable."""
        self._read_bytes = held_bytes
        self._resize()

    def wait(self, held_bytes: int) -> None:
        """Note how much waits for its acknowledgement. Raises Unavailable."""
        self._waiting_bytes = held_bytes
        self._resize()

    def _resize(self) -> None:
        self._share.resize(self._first_bytes + self._read_bytes + self._COPIES * self._waiting_bytes)


@dataclass(eq=False)
class MemoryBudget:
    """Bytes that all requests together may hold."""

    max_bytes: int
    what: str
    """What is full when it is, for the message."""
    held_bytes: int = 0
    freed_bytes: int = 0
    """All that was ever given back."""
    _shares: set[MemoryShare] = field(default_factory=set)

    @contextmanager
    def share(self, cut: Callable[[], None] = _kept) -> Iterator[MemoryShare]:
        """A share for the block, which is given back at its end."""
        share = MemoryShare(self, cut)
        self._shares.add(share)
        try:
            yield share
        finally:
            self._shares.discard(share)
            share.resize(0)

    def make_room(self, more_bytes: int, now: float) -> None:
        """Cut answers that nobody reads until there is room. Raises Unavailable when that is not enough."""
        while self.held_bytes + more_bytes > self.max_bytes:
            stalled = self._stalled(now)
            if stalled is None:
                reason = ErrorReason.ERROR_REASON_OVERLOADED
                raise Unavailable(
                    f"{self.what} take too much memory now; try again later", reason=reason, retry_after_s=1.0
                )
            self._shares.discard(stalled)
            stalled.resize(0)
            stalled.cut()

    def _stalled(self, now: float) -> MemoryShare | None:
        """The share whose caller took nothing for the longest time."""
        waiting = [
            (share.waits_since, id(share), share)
            for share in self._shares
            if share.waits_since is not None and now - share.waits_since > _STALLED_S
        ]
        return min(waiting)[2] if waiting else None
