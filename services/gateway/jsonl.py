"""Documents out of a body that is still arriving."""

import json
from collections.abc import AsyncIterator
from itertools import count

from sluice.client.documents import Document
from sluice.client.jsonl import Unreadable, document
from starlette.types import Receive

from services.gateway.errors import ClientGone, Refused


async def parts(receive: Receive) -> AsyncIterator[bytes]:
    """The parts of a body. Raises ClientGone."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def lines(receive: Receive, *, most_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a body, without their ends. Raises Refused for one that is too long: its end is nowhere in sight."""
    rest = b""
    async for part in parts(receive):
        whole, newline, tail = part.rpartition(b"\n")
        if newline:
            for line in (rest + whole).split(b"\n"):
                yield line
            rest = tail
        else:
            rest += part
        if len(rest) > most_bytes:
            raise Refused(413, f"expected lines of at most {most_bytes:,} bytes, got more")
    if rest:
        yield rest


async def from_lines(
    receive: Receive, timestamps: frozenset[str], *, most_bytes: int
) -> AsyncIterator[Document | Unreadable]:
    """A document, or what is wrong, for each line that is not blank."""
    numbers = count(1)
    async for line in lines(receive, most_bytes=most_bytes):
        number = next(numbers)
        if line.strip():
            try:
                yield document(json.loads(line), timestamps)
            except ValueError as error:
                yield Unreadable(number, str(error))


async def from_json(
    receive: Receive, timestamps: frozenset[str], *, most_bytes: int
) -> AsyncIterator[Document | Unreadable]:
    """A document, or what is wrong, for each element of a JSON list, or of the list `documents` of an object.

    Raises Refused when the body is too large or is neither.
    """
    body = b""
    async for part in parts(receive):
        body += part
        if len(body) > most_bytes:
            raise Refused(413, f"expected at most {most_bytes:,} bytes of JSON, got more: send JSON lines instead")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Refused(400, f"body: expected JSON: {error}") from None
    listed = value.get("documents") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise Refused(400, 'body: expected a list of documents, or {"documents": [...]}')
    for number, record in enumerate(listed, start=1):
        try:
            yield document(record, timestamps)
        except ValueError as error:
            yield Unreadable(number, str(error))
