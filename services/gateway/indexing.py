"""An index stream on behalf of one request.

Rule: nothing is tried twice here. Documents that were not acknowledged are the caller's to send again.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc
from sluice.client.answers import Acknowledgement
from sluice.client.documents import Document
from sluice.client.indexing import Window, opening
from sluice.client.jsonl import Unreadable
from sluice.errors import from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb

from services.gateway.upstream import Caller

_UNACKNOWLEDGED: Final = 512
_KEPT_FAILURES: Final = 100


@dataclass(frozen=True)
class Job:
    """Where documents go."""

    collection: str
    create: bool
    filterable_fields: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """A document that was refused."""

    reason: str
    message: str
    document_id: str = ""
    line: int = 0
    """Number of its line or element, from 1, of what is no document at all."""


@dataclass
class Tally:
    """What happened so far."""

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    """The first ones."""

    def counts(self) -> dict[str, int]:
        """The counts by name."""
        return {"indexed": self.indexed, "unchanged": self.unchanged, "failed": self.failed}

    def note(self, acknowledgement: Acknowledgement) -> None:
        """Count a document."""
        match acknowledgement.outcome:
            case "indexed":
                self.indexed += 1
            case "unchanged":
                self.unchanged += 1
            case _:
                known = acknowledgement
                self.refuse(Failure(known.reason, known.message, document_id=known.document_id))

    def refuse(self, failure: Failure) -> None:
        """Count a document that was refused; the first ones are kept."""
        self.failed += 1
        if len(self.failures) < _KEPT_FAILURES:
            self.failures.append(failure)


async def index(
    caller: Caller, job: Job, source: AsyncIterator[Document | Unreadable], tally: Tally
) -> AsyncIterator[None]:
    """Send documents; a step for each time that the tally grew. Raises SluiceError."""
    documents = _readable(source, tally)
    window = Window(_UNACKNOWLEDGED)
    outgoing: asyncio.Queue[pb.IndexRequest | None] = asyncio.Queue()
    outgoing.put_nowait(opening(job.collection, job.create, job.filterable_fields))
    responses = caller.upstream.search.Index(_drained(outgoing), metadata=caller.metadata)
    is_ended = False
    try:
        while True:
            while not is_ended and (room := window.room()):
                taken = await _take(documents, room)
                is_ended = len(taken) < room
                for refused in window.add(taken):
                    tally.note(refused)
                _send(window, outgoing)
            _send(window, outgoing)
            if is_ended and not window.is_waiting:
                outgoing.put_nowait(None)
            response = await responses.read()
            if not isinstance(response, pb.IndexResponse):
                break
            for known in window.acknowledge(response):
                tally.note(known)
            yield
        window.expect_empty()
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    finally:
        responses.cancel()


async def _readable(source: AsyncIterator[Document | Unreadable], tally: Tally) -> AsyncIterator[Document]:
    """The documents; lines that are none are told to the tally."""
    async for item in source:
        if isinstance(item, Document):
            yield item
        else:
            tally.refuse(Failure("INVALID_REQUEST", item.problem, line=item.line))


async def _take(source: AsyncIterator[Document], count: int) -> list[Document]:
    """The next `count` documents; fewer at the end."""
    taken: list[Document] = []
    while len(taken) < count and (document := await anext(source, None)) is not None:
        taken.append(document)
    return taken


def _send(window: Window, outgoing: "asyncio.Queue[pb.IndexRequest | None]") -> None:
    for message in window.messages():
        outgoing.put_nowait(message)


async def _drained(queue: "asyncio.Queue[pb.IndexRequest | None]") -> AsyncIterator[pb.IndexRequest]:
    while (message := await queue.get()) is not None:
        yield message
