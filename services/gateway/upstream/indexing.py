"""An index stream on behalf of one HTTP request.

Rule: the gateway never retries. The client sends documents again that were not acknowledged.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import grpc
from sluice.client.answers import Acknowledgement
from sluice.client.documents import Document
from sluice.client.index_options import opening
from sluice.client.indexing import Window, index_stream
from sluice.client.jsonl import Unreadable
from sluice.errors import from_rpc_error

from services.gateway.http.memory_budget import StreamMemory
from services.gateway.upstream.caller import Caller

_MAX_UNACKNOWLEDGED: Final = 512
# Two messages of the largest size.
_MAX_UNACKNOWLEDGED_BYTES: Final = 8 * 2**20
_MAX_FAILURES: Final = 100


@dataclass(frozen=True)
class IndexTarget:
    """The collection that documents are indexed into."""

    collection: str
    create: bool
    filterable_fields: Mapping[str, str]


@dataclass(frozen=True)
class IndexFailure:
    """A document that was rejected, or a line that is not a document."""

    reason: str
    message: str
    document_id: str = ""
    line: int = 0
    """Number of the line or element, from 1, if it is not a document; otherwise 0."""


@dataclass
class IndexProgress:
    """Counts of documents, and the failures, so far."""

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    truncated: int = 0
    """Indexed documents that the model did not read to the end."""
    dropped_tokens: int = 0
    """Tokens of these documents that the model did not read."""
    failures: list[IndexFailure] = field(default_factory=list)
    """The first 100 failures."""

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {
            "indexed": self.indexed,
            "unchanged": self.unchanged,
            "failed": self.failed,
            "truncated": self.truncated,
            "dropped_tokens": self.dropped_tokens,
        }

    def record(self, acknowledgement: Acknowledgement) -> None:
        """Count an acknowledged document."""
        match acknowledgement.outcome:
            case "indexed":
                self.indexed += 1
                self.truncated += acknowledgement.dropped_token_count > 0
                self.dropped_tokens += acknowledgement.dropped_token_count
            case "unchanged":
                self.unchanged += 1
            case _:
                failed = acknowledgement
                self.fail(IndexFailure(failed.reason, failed.message, document_id=failed.document_id))

    def fail(self, failure: IndexFailure) -> None:
        """Count a failure, and keep it if it is among the first ones."""
        self.failed += 1
        if len(self.failures) < _MAX_FAILURES:
            self.failures.append(failure)


async def index(
    caller: Caller,
    target: IndexTarget,
    source: AsyncGenerator[Document | Unreadable],
    memory: StreamMemory,
    progress: IndexProgress,
) -> AsyncIterator[None]:
    """Index documents and count them in `progress`. Raises SluiceError.

    Yields after each acknowledged document, and once at the end.
    """
    first = opening(target.collection, target.create, target.filterable_fields)
    call = await caller.stream(caller.upstream.indexing.Index, first)
    window = Window(_MAX_UNACKNOWLEDGED, max_bytes=_MAX_UNACKNOWLEDGED_BYTES)
    documents = _documents(source, progress)
    acknowledgements = index_stream(
        call, first, window, documents, lambda _: memory.set_unacknowledged_bytes(window.byte_count)
    )
    try:
        # Close each generator explicitly. Otherwise its memory is only freed by the next garbage collection.
        async with aclosing(source), aclosing(documents), aclosing(acknowledgements):
            async for acknowledgement in acknowledgements:
                progress.record(acknowledgement)
                yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    yield


async def _documents(source: AsyncIterator[Document | Unreadable], progress: IndexProgress) -> AsyncGenerator[Document]:
    """Yield the documents. Records that are not documents are counted as failures."""
    async for item in source:
        if isinstance(item, Document):
            yield item
        else:
            progress.fail(IndexFailure("INVALID_REQUEST", item.problem, line=item.line))
