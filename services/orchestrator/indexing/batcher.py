"""Documents that wait to be indexed, returned in batches."""

import asyncio

from sluice.common.v1.document_pb2 import Document

from services.core.batching import BatchLimits


class DocumentBatcher:
    """A bounded queue of documents. A batch has whatever arrived while the previous batch was processed.

    It never waits for a batch to fill up: a single document is returned at once, a fast stream in full batches.
    The ids of a batch are unique: a second document with the same id is in the next batch.
    """

    def __init__(self, max_documents: int, max_bytes: int) -> None:
        self._limits = BatchLimits(max_documents, max_bytes)
        self._queue: asyncio.Queue[Document | None] = asyncio.Queue(maxsize=max_documents)
        self._held: Document | None = None
        self._is_closed = False

    async def put(self, document: Document) -> None:
        """Add a document; wait while a full batch is in the queue."""
        await self._queue.put(document)

    async def close(self) -> None:
        """End the queue after the documents that are in it."""
        await self._queue.put(None)

    async def next_batch(self) -> list[Document]:
        """Return at least one document; none at the end."""
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
        """Return the next document; None at the end, however often it is called."""
        if self._is_closed:
            return None
        document = await self._queue.get()
        self._is_closed = document is None
        return document
