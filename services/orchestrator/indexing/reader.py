"""The first part of an index stream: reads messages, rejects invalid documents, and queues the others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Unavailable

from services.orchestrator.chunks import FIELDS as CHUNK_FIELDS
from services.orchestrator.chunks import MAX_PARENT_BYTES, Chunking
from services.orchestrator.documents import DocumentLimits, find_problem
from services.orchestrator.indexing.batcher import DocumentBatcher
from services.orchestrator.indexing.limits import IndexLimits
from services.orchestrator.indexing.messages import Acknowledgement, Message, failure
from services.orchestrator.indexing.queues import AcknowledgementQueue


@dataclass
class IdleTimer:
    """Decides when an index stream is idle: no document arrives and none is being processed. Times are in seconds."""

    timeout_s: float
    busy_at: float
    """The last time that the stream was busy."""

    def record_busy(self, now: float) -> None:
        """Restart the timer: documents arrived."""
        self.busy_at = now

    def left_s(self, now: float, *, pending: int) -> float:
        """Return the seconds until the stream is idle. Raises Unavailable if it is.

        pending  documents that are being processed; they keep the stream busy
        """
        if pending:
            self.busy_at = now
        left = self.busy_at + self.timeout_s - now
        if left <= 0:
            message = f"no document arrived for {self.timeout_s:g} s; open a new stream for further documents"
            raise Unavailable(message, reason=ErrorReason.ERROR_REASON_STREAM_IDLE)
        return left


def limits_for(limits: DocumentLimits, chunking: Chunking | None) -> DocumentLimits:
    """Return the limits of documents. Chunks need a part of the id and some names of metadata."""
    if chunking is None:
        return limits
    return replace(limits, max_id_bytes=MAX_PARENT_BYTES, reserved=tuple(CHUNK_FIELDS))


def screen(documents: Sequence[Document], limits: DocumentLimits) -> tuple[list[Document], list[Acknowledgement]]:
    """Return the valid documents of one message, and the acknowledgements of the others."""
    valid: list[Document] = []
    failed: list[Acknowledgement] = []
    seen: set[str] = set()
    for position, document in enumerate(documents):
        problem = find_problem(document, limits)
        if problem is None and document.document_id in seen:
            problem = "document_id: expected unique ids in one message, got this one again; only the first counts"
        if problem is None:
            seen.add(document.document_id)
            valid.append(document)
        else:
            failed.append(failure(document.document_id, f"documents[{position}].{problem}"))
    return valid, failed


class Reader:
    """Reads the messages of one index stream into `batches`."""

    def __init__(self, limits: IndexLimits, acknowledgements: AcknowledgementQueue) -> None:
        self.batches = DocumentBatcher(limits.batch_documents, limits.batch_bytes)
        self.is_cut = False
        """The server is shutting down, and the rest of the stream was not read."""
        self._limits = limits
        self._acknowledgements = acknowledgements
        self._idle = IdleTimer(limits.idle_timeout_s, monotonic())
        self._is_draining = False
        self._reading: asyncio.Future[Message | None] | None = None

    def drain(self) -> None:
        """Read no further messages."""
        self._is_draining = True
        if self._reading is not None:
            self._reading.cancel()

    async def run(self, first: Message, messages: AsyncIterator[Message], chunking: Chunking | None) -> None:
        """Read all messages; `first` was read before."""
        limits, message = limits_for(self._limits.document, chunking), first
        while True:
            await self._accept(message.documents, limits)
            following = await self.next(messages)
            if following is None:
                break
            message = following
        await self.batches.close()

    async def next(self, messages: AsyncIterator[Message]) -> Message | None:
        """Return the next message; None at the end and when draining. Raises Unavailable if the stream is idle."""
        if self._is_draining:
            self.is_cut = True
            return None
        self._reading = reading = asyncio.ensure_future(anext(messages, None))
        try:
            while not reading.done():
                left_s = self._idle.left_s(monotonic(), pending=self._acknowledgements.pending)
                await asyncio.wait({reading}, timeout=left_s)
        finally:
            reading.cancel()
        if reading.cancelled():
            self.is_cut = True
            return None
        return reading.result()

    async def _accept(self, documents: Sequence[Document], limits: DocumentLimits) -> None:
        """Queue the valid documents of a message, and acknowledge the others as failed."""
        if not documents:
            return
        valid, failed = screen(documents, limits)
        self._acknowledgements.pending += len(documents)
        for document in valid:
            await self.batches.put(document)
        self._idle.record_busy(monotonic())
        await self._acknowledgements.put(failed)
