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

# Most concurrent requests of one stream, enough to fill a batch of short texts. Beyond it the stream is not read, and
# flow control slows the client down.
_MAX_CONCURRENT: Final = 64
# Longest time that the rest of a failed stream is read, in seconds.
_REST_S: Final = 5.0


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    context: Context,
    *,
    idle_s: float,
) -> AsyncIterator[Response]:
    """Yield the response to each request, in the order of the requests.

    The first request that fails ends the stream with its error, after the responses before it. Raises Unavailable
    (STREAM_IDLE) if no message arrives for `idle_s` seconds while no response is in progress.
    """
    in_progress: deque[asyncio.Future[Response]] = deque()
    reading: asyncio.Future[list[Request]] | None = asyncio.ensure_future(_next(requests))

    def cancel_all(_: Any = None) -> None:
        for task in (*in_progress, reading):
            if task is not None and not task.cancel() and not task.cancelled():
                task.exception()  # consume the error: only the first one is reported

    # If the caller disconnects while a response is written, this generator stays suspended, so the callback cancels.
    on_end: Any = cancel_all
    context.add_done_callback(on_end)
    try:
        while reading or in_progress:
            if in_progress and in_progress[0].done():
                yield in_progress.popleft().result()
            elif reading and reading.done() and len(in_progress) < _MAX_CONCURRENT:
                message = reading.result()
                in_progress.extend(asyncio.ensure_future(answer(request)) for request in message)
                reading = asyncio.ensure_future(_next(requests)) if message else None
            else:
                await _progress(in_progress, reading, idle_s)
    except SluiceError:
        await discard_rest(_rest(requests, reading), quiet_s=QUIET_S, at_most_s=_REST_S)
        raise
    finally:
        cancel_all()


async def _next(requests: AsyncIterator[Request]) -> list[Request]:
    """Return the next request in a list, which is empty at the end."""
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
    in_progress: "deque[asyncio.Future[Any]]", reading: "asyncio.Future[Any] | None", idle_s: float
) -> None:
    """Wait for the oldest response, or for another request if there is room for it."""
    awaited: set[asyncio.Future[Any]] = {in_progress[0]} if in_progress else set()
    if reading and len(in_progress) < _MAX_CONCURRENT:
        awaited.add(reading)
    done, _ = await asyncio.wait(awaited, timeout=None if in_progress else idle_s, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        message = f"expected a message or the end of the stream within {idle_s:g} s, got none"
        raise Unavailable(message, reason=ErrorReason.ERROR_REASON_STREAM_IDLE)
