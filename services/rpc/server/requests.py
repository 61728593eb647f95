"""Parsing of request messages inside the handler, so that a malformed message is rejected with a clear error.

Facts: an exception of a deserializer inside gRPC reaches the caller as UNKNOWN with the name of its class. The iterator
that gRPC passes to a handler keeps the bytes of the last message until the call ends, so messages are read from the
context.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from sluice.errors import InvalidRequest

from services.rpc.request_streams import discard_rest
from services.rpc.server.offloading import offload
from services.rpc.server.sizing import FILTER_BYTES_MAX, check_message, field_bytes

Context = grpc.aio.ServicerContext[Any, Any]
Parse = Callable[[bytes], Any] | None
"""Parses the bytes of a message; None keeps the bytes."""

# Counting so many fields takes some milliseconds.
_FEW_FIELDS: Final = 2048


async def read_one(context: Context, parse: Parse) -> Any:
    """Return the first message. Raises InvalidRequest if there is none or it is malformed."""
    data: Any = await context.read()
    if data is grpc.aio.EOF:
        raise InvalidRequest("expected one request message, got none")
    return await parse_message(data, parse)


async def read_all(context: Context, parse: Parse) -> AsyncIterator[Any]:
    """Yield every message of a stream. Raises InvalidRequest for a malformed one."""
    while (data := await context.read()) is not grpc.aio.EOF:
        try:
            message = await parse_message(data, parse)
        except InvalidRequest:
            del data
            await discard_rest(read_all(context, None))
            raise
        # Hold neither the message nor its bytes while waiting for the next one.
        del data
        yield message
        del message


async def parse_message(data: bytes, parse: Parse) -> Any:
    """Return the parsed message. Raises InvalidRequest if it is malformed or too large to be parsed."""
    if parse is None:
        return data
    descriptor = getattr(getattr(parse, "__self__", None), "DESCRIPTOR", None)
    if descriptor is not None and len(data) > FILTER_BYTES_MAX:
        # A message of few fields is checked inline. If it is rejected, it is freed before the next one is read.
        _, fields = field_bytes(data, most=_FEW_FIELDS)
        await offload(lambda: check_message(data, descriptor), size=fields, inline=_FEW_FIELDS)
    try:
        return parse(data)
    except DecodeError:
        name = descriptor.full_name if descriptor else "request message"
        raise InvalidRequest(
            f"expected a serialized {name}, got {len(data):,} bytes that do not parse as one"
        ) from None
