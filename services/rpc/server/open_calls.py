"""Admission of the calls that need no token: health and reflection. They have slots of their own.

    slots      at most `max_open_calls` in all and `max_open_connection_calls` of one connection; when all are taken,
               a new call displaces the oldest
    lifetime   10 s; for a health watch `max_watch_s` after its request message has arrived

A call that is ended early gets UNAVAILABLE. gRPC clients with `healthCheckConfig` start the next watch immediately if
the ended one had a response, and hold their own calls back until the new watch answers. None of their calls fails. A
watch that is displaced before its message has arrived is therefore answered before it is ended.

Fact: grpc.aio cannot end a call while one of its messages waits to be read by the caller, because no status leaves the
server. Such a call loses its slot and waits until its caller reads or its connection ends.
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

# Time limit of a call from its headers to its end; for a watch, until its message has arrived. In seconds.
BRIEF_S: Final = 10.0


class OpenCalls:
    """The health and reflection calls of one server. Belongs to the event loop."""

    def __init__(self, most: int, most_each: int, watch_s: float) -> None:
        self._slots = Slots(most, most_each)
        self._watch_s = watch_s
        self._calls: dict[int, OpenCall] = {}

    @asynccontextmanager
    async def admit(
        self, context: "grpc.aio.ServicerContext[Any, Any]", *, is_watch: bool
    ) -> AsyncIterator["OpenCall"]:
        """Hold a slot for the block. Raises Unavailable if there is none, or when the time of the call is over."""
        taken = self._slots.acquire(_connection(context.peer()))
        if taken is None:
            OPEN_CALLS_ENDED.labels("refused").inc()
            raise _overloaded(
                "this connection has too many calls whose responses are not read; read them before opening more"
            )
        ticket, displaced = taken
        if displaced is not None:
            # A displaced watch without an answer gets one first, unless too many calls wait for their end.
            self._calls[displaced].end(after_answer=self._slots.retired <= self._slots.most)
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
            raise _overloaded("the server ended this call to free its slot; call again") from None
        finally:
            OPEN_CALLS.dec()
            self._calls.pop(ticket, None)
            self._slots.release(ticket)

    def end_all(self) -> None:
        """End all calls, so that none delays the end of the server."""
        for call in self._calls.values():
            call.end()


class OpenCall:
    """One health or reflection call, and its time limit."""

    limit: asyncio.Timeout

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", watch_s: float, *, is_watch: bool) -> None:
        self._context = context
        self._watch_s = watch_s
        self._is_watch = is_watch
        self._writing: asyncio.Future[None] | None = None
        self.ended = False
        """Whether the server has ended the call early, or will do so after its response."""

    def end(self, *, after_answer: bool = False) -> None:
        """End the call now.

        With `after_answer`, a watch without a response ends after its first response, or when its time is over.
        """
        self.ended = True
        waits = after_answer and self._is_watch and self._writing is None
        if not waits and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time())

    def lengthen(self) -> None:
        """Extend the time limit to that of a watch, unless the call is being ended."""
        now, when = asyncio.get_running_loop().time(), self.limit.when()
        if when is not None and when > now and not self.limit.expired() and not self.ended:
            self.limit.reschedule(now + self._watch_s)

    async def write(self, message: Any) -> None:
        """Send a message. The write continues if the time limit ends meanwhile; `written` waits for it."""
        self._writing = asyncio.ensure_future(self._context.write(message))
        self._writing.add_done_callback(_consume_exception)
        if self.ended:
            self.end()
        await asyncio.shield(self._writing)

    async def written(self) -> None:
        """Wait until no message is being written."""
        if self._writing is not None:
            await asyncio.wait({self._writing})


def _consume_exception(writing: "asyncio.Future[None]") -> None:
    """Consume the exception of a write: the caller disconnected, which ends its call anyway."""
    if not writing.cancelled():
        writing.exception()


def _overloaded(message: str) -> Unavailable:
    return Unavailable(message, reason=ErrorReason.ERROR_REASON_OVERLOADED)


def _connection(peer: str) -> str:
    """Return the address and port of the peer. Empty for a Unix socket, where connections cannot be told apart."""
    return peer if peer.startswith(("ipv4:", "ipv6:")) else ""
