"""Documents waiting to be indexed, handed out in batches."""

import asyncio

from sluice.common.v1.document_pb2 import Document

from services.core.batching import BatchLimits


class Inbox:
    """A bounded queue of documents that gives batches: whatever has come while the batch before was worked on.

    Nothing waits for a batch to fill, so one document alone goes at once and a stream of them in full batches.
    A batch has unique ids: the second document of an id comes in the next one.
    """

    def __init__(self, batch_documents: int, batch_bytes: int) -> None:
        self._limits = BatchLimits(batch_documents, batch_bytes)
        self._queue: asyncio.Queue[Document | None] = asyncio.Queue(maxsize=batch_documents)
        self._held: Document | None = None
        self._closed = False

    async def put(self, document: Document) -> None:
        """Add a document; waits while there is a whole batch already."""
        await self._queue.put(document)

    async def close(self) -> None:
        """Say that no more will come."""
        await self._queue.put(None)

    async def next_batch(self) -> list[Document]:
        """One document at least; none at the end."""
        batch: list[Document] = []
        ids: set[str] = set()
        size = 0
        document = self._held or await self._next()
        self._held = None
        while document is not None:
            added = document.ByteSize()
            if document.document_id in ids or not self._limits.admits(len(batch), size, added):
                self._held = document
                break
            batch.append(document)
            ids.add(document.document_id)
            size += added
            if len(batch) == self._limits.max_count or self._queue.empty():
                break
            document = await self._next()
        return batch

    async def _next(self) -> Document | None:
        """The next document; None at the end, and again whenever asked after it."""
        if self._closed:
            return None
        document = await self._queue.get()
        self._closed = document is None
        return document
