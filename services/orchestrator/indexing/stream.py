"""One index stream: documents in, acknowledgements out, with little in memory.

    reader ──▶ documents ──▶ preparer ──▶ batches ──▶ storer ──▶ acknowledgements
               (bounded)     unchanged?   (bounded)              (bounded)
                             chunk, embed

A batch is embedded while the previous one is stored. Every queue is bounded, so a slow part stops the reading of
documents, and HTTP/2 flow control slows the caller down.

Rule: a problem of one document fails that document; a problem of a service ends the stream. A service without capacity
gets smaller batches, and the stream waits for it (`pace.py`, `sender.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Unavailable

from services.orchestrator.downstream.services import Services
from services.orchestrator.indexing.limits import IndexLimits
from services.orchestrator.indexing.messages import Acknowledgement, Message, StreamHeader
from services.orchestrator.indexing.pace import Pace
from services.orchestrator.indexing.preparer import Preparer
from services.orchestrator.indexing.queues import AcknowledgementQueue, WriteQueue
from services.orchestrator.indexing.reader import Reader
from services.orchestrator.indexing.sender import Sender
from services.orchestrator.indexing.storer import Storer
from services.orchestrator.indexing.target import Target, open_target


class IndexStream:
    """One index stream: a reader, a preparer and a storer. Use `acknowledgements` once."""

    def __init__(self, services: Services, limits: IndexLimits) -> None:
        self._services = services
        self._limits = limits
        self._acknowledgements = AcknowledgementQueue()
        self._reader = Reader(limits, self._acknowledgements)
        self._embedding, self._retrieval = self._sender("embedding"), self._sender("retrieval")
        self._work: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def acknowledgements(self, messages: AsyncIterator[Message]) -> AsyncIterator[Sequence[Acknowledgement]]:
        """Yield acknowledgements as documents are processed.

        Raises the error that ended the stream, after all acknowledgements.
        """
        self._work = asyncio.create_task(self._run(messages))
        try:
            while (acknowledgements := await self._acknowledgements.get()) is not None:
                yield acknowledgements
            await self._work
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all work at once, because the caller has disconnected."""
        self._is_stopped = True
        if self._work is not None:
            self._work.cancel()

    def drain(self) -> None:
        """Read no further messages. The stream ends as UNAVAILABLE after the documents that it has read."""
        for sender in (self._embedding, self._retrieval):
            sender.drain()
        self._reader.drain()

    async def _run(self, messages: AsyncIterator[Message]) -> None:
        try:
            first = await self._reader.next(messages)
            if first is not None and first.header is not None:
                await self._index(first, messages, await self._open(first.header))
            if self._reader.is_cut:
                raise Unavailable(
                    "the server is shutting down; send the other documents again",
                    reason=ErrorReason.ERROR_REASON_DRAINING,
                )
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            if not self._is_stopped:  # otherwise nothing reads the queue
                await self._acknowledgements.close()

    async def _index(self, first: Message, messages: AsyncIterator[Message], target: Target) -> None:
        """Run the three parts until all documents are acknowledged."""
        writes = WriteQueue()
        preparer = Preparer(
            self._services,
            target,
            self._embedding,
            self._retrieval,
            self._limits.batch_bytes,
            self._reader.batches,
            writes,
            self._acknowledgements,
        )
        storer = Storer(self._services, target.collection, self._retrieval, writes, self._acknowledgements)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reader.run(first, messages, target.chunking))
            group.create_task(preparer.run())
            group.create_task(storer.run())

    async def _open(self, header: StreamHeader) -> Target:
        """Return the collection to write to.

        It has only the time of one batch, so that a caller whose stream cannot begin learns it soon.
        """
        limits = self._limits
        sender = Sender("opening", Pace(1, limits.batch_timeout_s), limits.batch_timeout_s)
        return await sender.call(
            lambda deadline: open_target(
                self._services, header, model=limits.model, kinds=limits.kinds, deadline=deadline
            )
        )

    def _sender(self, service: str) -> Sender:
        limits = self._limits
        pace = Pace(limits.batch_documents, limits.patience_s)
        return Sender(service, pace, limits.batch_timeout_s, lambda: self._acknowledgements.stored)
