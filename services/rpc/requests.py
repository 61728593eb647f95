"""Request messages, parsed inside the handler, where a failure becomes a clear refusal.

Fact: what a deserializer raises inside gRPC reaches the caller as UNKNOWN with the name of the exception's class.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError
from sluice.errors import InvalidRequest

Parse = Callable[[bytes], Any] | None
"""What makes a message of bytes; None leaves the bytes."""

_LULL_S: Final = 0.2


async def only(raw: AsyncIterator[bytes], parse: Parse) -> Any:
    """Return the first message. Raises InvalidRequest when there is none, or it does not parse."""
    async for data in raw:
        return parsed(data, parse)
    raise InvalidRequest("expected one request message, got none")


async def each(raw: AsyncIterator[bytes], parse: Parse) -> AsyncIterator[Any]:
    """Yield every message of a stream. Raises InvalidRequest at one that does not parse."""
    async for data in raw:
        try:
            message = parsed(data, parse)
        except InvalidRequest:
            await lull(raw)
            raise
        yield message


def parsed(data: bytes, parse: Parse) -> Any:
    """Return the message that the bytes are. Raises InvalidRequest."""
    if parse is None:
        return data
    try:
        return parse(data)
    except DecodeError:
        descriptor = getattr(getattr(parse, "__self__", None), "DESCRIPTOR", None)
        name = descriptor.full_name if descriptor else "request message"
        raise InvalidRequest(
            f"expected a serialized {name}, got {len(data):,} bytes that do not parse as one"
        ) from None


async def lull(requests: AsyncIterator[Any]) -> None:
    """Until a stream that is to be refused has been quiet, for a fifth of a second at most.

    Fact: a grpc.aio client that is writing when its stream ends sees INTERNAL, and never why.
    """

    async def read() -> None:
        async for _ in requests:
            pass

    reading = asyncio.create_task(read())
    await asyncio.wait({reading}, timeout=_LULL_S)
    reading.cancel()
