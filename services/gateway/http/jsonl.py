"""Documents from a request body, read while it arrives."""

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


async def body_parts(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the parts of a body. Raises ClientDisconnected."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def read_lines(receive: Receive, memory: StreamMemory, *, max_bytes: int) -> AsyncGenerator[bytes]:
    """Yield the lines of a body, without line ends. Raises HttpError for a line over `max_bytes`."""
    rest = bytearray()
    async for part in body_parts(receive):
        memory.set_body_bytes(len(rest) + len(part))
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
    """Yield a document, or the reason why it is none, for each line that is not blank."""
    numbers = count(1)
    async with aclosing(read_lines(receive, memory, max_bytes=max_bytes)) as lines:
        async for line in lines:
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
    """Yield a document, or the reason why it is none, for each element of a JSON list or of `{"documents": [...]}`.

    Raises HttpError if the body is too large or is neither.
    """
    records = _records(await _read_body(receive, memory, max_bytes=max_bytes, max_values=max_values))
    for number, record in enumerate(records, start=1):
        try:
            yield document(record, timestamps)
        except ValueError as error:
            yield Unreadable(number, str(error))


async def _read_body(receive: Receive, memory: StreamMemory, *, max_bytes: int, max_values: int) -> Any:
    """Return the value of a JSON body. Raises HttpError if it is too large or not JSON."""
    body = bytearray()
    try:
        async for part in body_parts(receive):
            body += part
            memory.set_body_bytes(len(body))
            if len(body) > max_bytes:
                raise HttpError(413, f"expected at most {max_bytes:,} bytes of JSON, got more; send JSON lines instead")
        measure = partial(memory_bytes, body, max_values=max_values)
        memory.set_body_bytes(len(body) + await run_in_thread(measure))
        return parse(body)
    except JsonError as error:
        raise HttpError(400, f"body: {error}") from None
    finally:
        # The traceback of an error references this frame.
        body.clear()


def _records(value: Any) -> list[Any]:
    """Return the list of records in a body. Raises HttpError if there is none."""
    listed = value.get("documents") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise HttpError(400, 'body: expected a list of documents, or {"documents": [...]}')
    return listed
