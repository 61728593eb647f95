"""Limits on the memory that all requests together hold.

budget      counts                                                      beyond the limit
bodies      received bytes, parsed JSON, unacknowledged documents       the request gets 503
responses   vectors of a response being built, unread responses         the response that has not been read for the
                                                                        longest time is aborted; if all are being read,
                                                                        the new request gets 503
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Unavailable

from services.gateway.http.errors import HttpError

# A response that has not been read for this long may be aborted in favor of others.
_STALLED_S: Final = 1.0


def _no_abort() -> None:
    """Do nothing: this request cannot be aborted."""


@dataclass(eq=False)
class MemoryShare:
    """The memory of one request in a budget."""

    budget: "MemoryBudget"
    abort: Callable[[], None] = _no_abort
    """Aborts the connection, if the client does not read the response."""
    held_bytes: int = 0
    waits_since: float | None = None
    """When the client was last sent bytes that it has not read yet; None if it has read all."""

    def resize(self, held_bytes: int) -> None:
        """Set the size. Raises Unavailable if there is no room now, or HttpError if it is over the whole budget."""
        if held_bytes > self.budget.max_bytes:
            most = self.budget.max_bytes
            raise HttpError(413, f"{self.budget.what}: expected at most {most:,} bytes of memory, got {held_bytes:,}")
        if held_bytes > self.held_bytes:
            self.budget.make_room(held_bytes - self.held_bytes, monotonic())
        self.budget.held_bytes += held_bytes - self.held_bytes
        self.budget.freed_bytes += max(0, self.held_bytes - held_bytes)
        self.held_bytes = held_bytes

    def add(self, more_bytes: int) -> None:
        """Increase the size. Raises Unavailable or HttpError, as `resize`."""
        self.resize(self.held_bytes + more_bytes)


class StreamMemory:
    """The memory of a stream of documents: bytes of the body, and unacknowledged documents."""

    # Each unacknowledged document exists as a document, in its message, and in the send buffer of gRPC.
    _COPIES: Final = 3

    def __init__(self, share: MemoryShare) -> None:
        self._share = share
        self._first_bytes = share.held_bytes
        self._body_bytes = self._unacknowledged_bytes = 0

    def set_body_bytes(self, held_bytes: int) -> None:
        """Set the bytes of the body that are in memory. Raises Unavailable or HttpError."""
        self._body_bytes = held_bytes
        self._resize()

    def set_unacknowledged_bytes(self, held_bytes: int) -> None:
        """Set the bytes of unacknowledged documents. Raises Unavailable or HttpError."""
        self._unacknowledged_bytes = held_bytes
        self._resize()

    def _resize(self) -> None:
        self._share.resize(self._first_bytes + self._body_bytes + self._COPIES * self._unacknowledged_bytes)


@dataclass(eq=False)
class MemoryBudget:
    """A limit on the bytes that all requests together hold."""

    max_bytes: int
    what: str
    """What the budget is for, for the message of an error."""
    held_bytes: int = 0
    freed_bytes: int = 0
    """Bytes that were ever released."""
    _shares: set[MemoryShare] = field(default_factory=set)

    @contextmanager
    def share(self, abort: Callable[[], None] = _no_abort) -> Iterator[MemoryShare]:
        """Yield a share of the budget, and release it at the end of the block."""
        share = MemoryShare(self, abort)
        self._shares.add(share)
        try:
            yield share
        finally:
            self._shares.discard(share)
            share.resize(0)

    def make_room(self, more_bytes: int, now: float) -> None:
        """Abort unread responses until there is room. Raises Unavailable if that is not enough."""
        while self.held_bytes + more_bytes > self.max_bytes:
            stalled = self._stalled(now)
            if stalled is None:
                reason = ErrorReason.ERROR_REASON_OVERLOADED
                raise Unavailable(
                    f"{self.what} take too much memory now; try again later", reason=reason, retry_after_s=1.0
                )
            self._shares.discard(stalled)
            stalled.resize(0)
            stalled.abort()

    def _stalled(self, now: float) -> MemoryShare | None:
        """Return the share whose client has not read for the longest time, or None if all are reading."""
        waiting = [
            (share.waits_since, id(share), share)
            for share in self._shares
            if share.waits_since is not None and now - share.waits_since > _STALLED_S
        ]
        return min(waiting)[2] if waiting else None
