"""An index stream on behalf of one request.

Rule: nothing is tried twice here. Documents that were not acknowledged are the caller's to send again.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import grpc
from sluice.client.answers import Acknowledgement
from sluice.client.documents import Document
from sluice.client.indexing import Window, index_stream, opening
from sluice.client.jsonl import Unreadable
from sluice.errors import from_rpc_error

from services.gateway.http.memory_budget import StreamMemory
from services.gateway.upstream.caller import Caller

_UNACKNOWLEDGED: Final = 512
# Two messages of the largest size.
_UNACKNOWLEDGED_BYTES: Final = 8 * 2**20
_KEPT_FAILURES: Final = 100


@dataclass(frozen=True)
class IndexTarget:
    """Where documents go."""

    collection: str
    create: bool
    filterable_fields: Mapping[str, str]


@dataclass(frozen=True)
class IndexFailure:
    """A document that was refused."""

    reason: str
    message: str
    document_id: str = ""
    line: int = 0
    """Number of its line or element, from 1, of what is no document at all."""


@dataclass
class IndexProgress:
    """What happened so far."""

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: list[IndexFailure] = field(default_factory=list)
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
                self.refuse(IndexFailure(known.reason, known.message, document_id=known.document_id))

    def refuse(self, failure: IndexFailure) -> None:
        """Count a document that was refused; the first ones are kept."""
        self.failed += 1
        if len(self.failures) < _KEPT_FAILURES:
            self.failures.append(failure)


async def index(
    caller: Caller,
    target: IndexTarget,
    source: AsyncGenerator[Document | Unreadable],
    memory: StreamMemory,
    progress: IndexProgress,
) -> AsyncIterator[None]:
    """Send documents; a step for each one that was acknowledged, and one at the end. Raises SluiceError."""
    first = opening(target.collection, target.create, target.filterable_fields)
    call = await caller.stream(caller.upstream.indexing.Index, first)
    window = Window(_UNACKNOWLEDGED, max_bytes=_UNACKNOWLEDGED_BYTES)
    readable = _documents(source, progress)
    known = index_stream(call, first, window, readable, lambda _: memory.wait(window.byte_count))
    try:
        # Closed one by one: what a generator holds would otherwise be there until the next garbage collection.
        async with aclosing(source), aclosing(readable), aclosing(known):
            async for acknowledgement in known:
                progress.note(acknowledgement)
                yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    yield


async def _documents(source: AsyncIterator[Document | Unreadable], progress: IndexProgress) -> AsyncGenerator[Document]:
    """The documents; lines that are none are told to the tally."""
    async for item in source:
        if isinstance(item, Document):
            yield item
        else:
            progress.refuse(IndexFailure("INVALID_REQUEST", item.problem, line=item.line))
