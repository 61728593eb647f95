"""Calls that need no token: health and reflection. They have places of their own, apart from those of other calls.

    place      at most `max_open_calls` in all and `max_open_connection_calls` of one connection; the oldest gives way
    lifetime   10 s; a health watch `max_watch_s`, once its request message is there

A call that must end gets UNAVAILABLE. gRPC clients that check health by `healthCheckConfig` then start the next watch
at once, because the ended one had an answer, and hold their own calls back until it answers: none of them fails. A
watch that loses its place before its message is there is therefore answered first, then ended.

Fact: grpc.aio cannot end a call while one of its messages waits for the caller to read: no status leaves the server.
Such a call loses its place and waits until its caller reads or its connection ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Unavailable

from services.rpc.observability.metrics import OPEN_CALLS, OPEN_CALLS_ENDED
from services.rpc.server.slots import Slots

# Time of a call that is no watch, from its headers to its end, and of a watch until its message is there. Seconds.
BRIEF_S: Final = 10.0


class OpenCalls:
    """The open calls of one server. Belongs to the event loop."""

    def __init__(self, most: int, most_each: int, watch_s: float) -> None:
        self._slots = Slots(most, most_each)
        self._watch_s = watch_s
        self._most_ending = most
        self._calls: dict[int, OpenCall] = {}

    @asynccontextmanager
    async def admit(
        self, context: "grpc.aio.ServicerContext[Any, Any]", *, is_watch: bool
    ) -> AsyncIterator["OpenCall"]:
        """Hold a place for the block. Raises Unavailable when there is none, and from the block when its time ends."""
        taken = self._slots.acquire(_connection(context.peer()))
        if taken is None:
            OPEN_CALLS_ENDED.labels("refused").inc()
            raise _ended("calls of this connection wait to be read, and it may open no more")
        ticket, displaced = taken
        if displaced is not None:
            self._displace(displaced)
        call = OpenCall(context, self._watch_s, is_watch=is_watch)
        OPEN_CALLS.inc()
        try:
            async with asyncio.timeout(BRIEF_S) as limit:
                self._calls[ticket], call.limit = call, limit
                yield call
        except TimeoutError:
            if not limit.expired():
                raise
            OPEN_CALLS_ENDED.labels("displaced" if call.ended else "lifetime").inc()
            self._slots.retire(ticket)
            await call.written()
            raise _ended("the server ended this call to free its place; call again") from None
        finally:
            OPEN_CALLS.dec()
            self._calls.pop(ticket, None)
            self._slots.release(ticket)

    def end_all(self) -> None:
        """End every open call, so that none holds up the end of the server."""
        for call in self._calls.values():
            call.end()

    def _displace(self, ticket: int) -> None:
        call = self._calls.get(ticket)
        if call is not None:
            call.end(after_answer=self._slots.retired <= self._most_ending)


class OpenCall:
    """One open call, and the time it has."""

    limit: asyncio.Timeout

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", watch_s: float, *, is_watch: bool) -> None:
        self._context = context
        self._watch_s = watch_s
        self._is_watch = is_watch
        self._writing: asyncio.Future[None] | None = None
        self.ended = False
        """Whether the server ended the call, or will after its answer, before its time was over."""

    def end(self, *, after_answer: bool = False) -> None:
        """End the call now, or `after_answer`: a watch that has no answer yet once it has one or its time ends."""
        self.ended = True
        waits = after_answer and self._is_watch and self._writing is None
        if not waits and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time())

    def lengthen(self) -> None:
        """Let the call last as long as a watch may. Does nothing when it is being ended."""
        now, when = asyncio.get_running_loop().time(), self.limit.when()
        if when is not None and when > now and not self.limit.expired() and not self.ended:
            self.limit.reschedule(now + self._watch_s)

    async def write(self, message: Any) -> None:
        """Send a message. It goes on when the time of the call ends meanwhile: `written` waits for it."""
        self._writing = asyncio.ensure_future(self._context.write(message))
        self._writing.add_done_callback(_noted)
        if self.ended:
            self.end()
        await asyncio.shield(self._writing)

    async def written(self) -> None:
        """Wait until no message is being written."""
        if self._writing is not None:
            await asyncio.wait({self._writing})


def _noted(writing: "asyncio.Future[None]") -> None:
    """Take note of a failure: the caller went away, which ends its call by itself."""
    if not writing.cancelled():
        writing.exception()


def _ended(message: str) -> Unavailable:
    return Unavailable(message, reason=ErrorReason.ERROR_REASON_OVERLOADED)


def _connection(peer: str) -> str:
    """What tells connections apart: address and port. Peers of a Unix socket are all called the same."""
    return peer if peer.startswith(("ipv4:", "ipv6:")) else ""
