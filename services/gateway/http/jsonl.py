"""Documents out of a body that is still arriving."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import Any

from sluice.client.documents import Document
from sluice.client.jsonl import Unreadable, document
from starlette.types import Receive

from services.gateway.http.errors import ClientDisconnected, HttpError
from services.gateway.http.json_input import JsonError, memory_bytes, parse
from services.gateway.http.memory_budget import StreamMemory
from services.gateway.http.threads import run_in_thread


async def parts(receive: Receive) -> AsyncIterator[bytes]:
    """The parts of a body. Raises ClientGone."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def lines(receive: Receive, memory: StreamMemory, *, max_bytes: int) -> AsyncGenerator[bytes]:
    """The lines of a body, without their ends. Raises Refused for one that is too long: its end is nowhere in sight."""
    rest = bytearray()
    async for part in parts(receive):
        memory.read(len(rest) + len(part))
        whole, newline, tail = part.rpartition(b"\n")
        if newline:
            rest += whole
            for line in rest.split(b"\n"):
                yield bytes(line)
            rest = bytearray(tail)
        else:
            rest += part
        if len(rest) > max_bytes:
            raise HttpError(413, f"expected lines of at most {max_bytes:,} bytes, got more")
    if rest:
        yield bytes(rest)


async def documents_from_lines(
    receive: Receive, timestamps: frozenset[str], memory: StreamMemory, *, max_bytes: int, max_values: int
) -> AsyncGenerator[Document | Unreadable]:
    """A document, or what is wrong, for each line that is not blank."""
    numbers = count(1)
    async with aclosing(lines(receive, memory, max_bytes=max_bytes)) as found:
        async for line in found:
            number = next(numbers)
            if line.strip():
                try:
                    memory_bytes(line, max_values=max_values)
                    yield document(parse(line), timestamps)
                except ValueError as error:
                    yield Unreadable(number, str(error))


async def documents_from_json(
    receive: Receive, timestamps: frozenset[str], memory: StreamMemory, *, max_bytes: int, max_values: int
) -> AsyncGenerator[Document | Unreadable]:
    """A document, or what is wrong, for each element of a JSON list, or of the list `documents` of an object.

    Raises Refused when the body is too large or is neither.
    """
    listed = _records(await _read_body(receive, memory, max_bytes=max_bytes, max_values=max_values))
    for number, record in enumerate(listed, start=1):
        try:
            yield document(record, timestamps)
        except ValueError as error:
            yield Unreadable(number, str(error))


async def _read_body(receive: Receive, memory: StreamMemory, *, max_bytes: int, max_values: int) -> Any:
    """Return the value of a JSON body. Raise Refused for one that is too large or no JSON."""
    body = bytearray()
    try:
        async for part in parts(receive):
            body += part
            memory.read(len(body))
            if len(body) > max_bytes:
                raise HttpError(413, f"expected at most {max_bytes:,} bytes of JSON, got more: send JSON lines instead")
        weigh = partial(memory_bytes, body, max_values=max_values)
        memory.read(len(body) + await run_in_thread(weigh))
        return parse(body)
    except JsonError as error:
        raise HttpError(400, f"body: {error}") from None
    finally:
        # An error keeps this frame alive.
        body.clear()


def _records(value: Any) -> list[Any]:
    listed = value.get("documents") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise HttpError(400, 'body: expected a list of documents, or {"documents": [...]}')
    return listed
