"""Documents out of a body that is still arriving."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

from sluice.client.documents import Document
from sluice.client.jsonl import Unreadable, document
from starlette.types import Receive

from services.gateway.errors import ClientGone, Refused
from services.gateway.held import StreamMemory
from services.gateway.json_input import JsonError, memory_bytes, parsed


async def parts(receive: Receive) -> AsyncIterator[bytes]:
    """The parts of a body. Raises ClientGone."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def lines(receive: Receive, held: StreamMemory, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a body, without their ends. Raises Refused for one that is too long: its end is nowhere in sight."""
    rest = bytearray()
    async for part in parts(receive):
        held.read(len(rest) + len(part))
        whole, newline, tail = part.rpartition(b"\n")
        if newline:
            rest += whole
            for line in rest.split(b"\n"):
                yield bytes(line)
            rest = bytearray(tail)
        else:
            rest += part
        if len(rest) > max_bytes:
            raise Refused(413, f"expected lines of at most {max_bytes:,} bytes, got more")
    if rest:
        yield bytes(rest)


async def from_lines(
    receive: Receive, timestamps: frozenset[str], held: StreamMemory, *, max_bytes: int, max_values: int
) -> AsyncIterator[Document | Unreadable]:
    """A document, or what is wrong, for each line that is not blank."""
    numbers = count(1)
    async for line in lines(receive, held, max_bytes=max_bytes):
        number = next(numbers)
        if line.strip():
            try:
                memory_bytes(line, max_values=max_values)
                yield document(parsed(line), timestamps)
            except ValueError as error:
                yield Unreadable(number, str(error))


async def from_json(
    receive: Receive, timestamps: frozenset[str], held: StreamMemory, *, max_bytes: int, max_values: int
) -> AsyncIterator[Document | Unreadable]:
    """A document, or what is wrong, for each element of a JSON list, or of the list `documents` of an object.

    Raises Refused when the body is too large or is neither.
    """
    body = bytearray()
    async for part in parts(receive):
        body += part
        held.read(len(body))
        if len(body) > max_bytes:
            raise Refused(413, f"expected at most {max_bytes:,} bytes of JSON, got more: send JSON lines instead")
    try:
        held.read(len(body) + await asyncio.to_thread(memory_bytes, body, max_values=max_values))
        value = parsed(body)
    except JsonError as error:
        raise Refused(400, f"body: {error}") from None
    body.clear()
    listed = value.get("documents") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise Refused(400, 'body: expected a list of documents, or {"documents": [...]}')
    for number, record in enumerate(listed, start=1):
        try:
            yield document(record, timestamps)
        except ValueError as error:
            yield Unreadable(number, str(error))
