"""Streams of requests that are answered concurrently, in the order of the requests."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import SluiceError, Unavailable

from services.rpc.request_streams import QUIET_S, discard_rest
from services.rpc.server.interceptor import Context

Request = TypeVar("Request")
Response = TypeVar("Response")

# Most requests of one stream under way: with so many it is read no further, and flow control tells the client. Enough
# to fill a batch of short texts.
_AT_ONCE: Final = 64
# Longest time that the rest of a failed stream is read, in seconds.
_REST_S: Final = 5.0


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    context: Context,
    *,
    idle_s: float,
) -> AsyncIterator[Response]:
    """The answer to each request, in the order of the requests.

    The first request that fails ends the stream with its error, after the answers before it. Raises Unavailable
    (STREAM_IDLE) when no message came for so long and no answer is awaited.
    """
    under_way: deque[asyncio.Future[Response]] = deque()
    reading: asyncio.Future[list[Request]] | None = asyncio.ensure_future(_next(requests))

    def leave(_: Any = None) -> None:
        for task in (*under_way, reading):
            if task is not None and not task.cancel() and not task.cancelled():
                task.exception()  # it failed too, and the first failure has been told

    # A caller that goes while an answer is being written leaves this generator suspended: stop without it.
    on_end: Any = leave
    context.add_done_callback(on_end)
    try:
        while reading or under_way:
            if under_way and under_way[0].done():
                yield under_way.popleft().result()
            elif reading and reading.done() and len(under_way) < _AT_ONCE:
                message = reading.result()
                under_way.extend(asyncio.ensure_future(answer(request)) for request in message)
                reading = asyncio.ensure_future(_next(requests)) if message else None
            else:
                await _progress(under_way, reading, idle_s)
    except SluiceError:
        await discard_rest(_rest(requests, reading), quiet_s=QUIET_S, at_most_s=_REST_S)
        raise
    finally:
        leave()


async def _next(requests: AsyncIterator[Request]) -> list[Request]:
    """The next request; none at the end."""
    async for request in requests:
        return [request]
    return []


async def _rest(
    requests: AsyncIterator[Request], reading: "asyncio.Future[list[Request]] | None"
) -> AsyncIterator[Request]:
    """Yield the message that is being read, and then all others."""
    if reading is not None:
        await asyncio.wait({reading})
        for request in () if reading.cancelled() else reading.result():
            yield request
            async for later in requests:
                yield later


async def _progress(
    under_way: "deque[asyncio.Future[Any]]", reading: "asyncio.Future[Any] | None", idle_s: float
) -> None:
    """Wait until the oldest answer is there, or another request when there is room for it."""
    awaited: set[asyncio.Future[Any]] = {under_way[0]} if under_way else set()
    if reading and len(under_way) < _AT_ONCE:
        awaited.add(reading)
    done, _ = await asyncio.wait(awaited, timeout=None if under_way else idle_s, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        message = f"expected a message or the end of the stream within {idle_s:g} s, got none"
        raise Unavailable(message, reason=ErrorReason.ERROR_REASON_STREAM_IDLE)
