"""The queues between the parts of an index stream. All are bounded, so a slow part slows the parts before it."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from services.orchestrator.downstream.truncation import Truncation
from services.orchestrator.indexing.items import WriteBatch
from services.orchestrator.indexing.messages import Acknowledgement, failure
from services.orchestrator.metrics import INDEXED, INDEXED_DROPPED_TOKENS, INDEXED_TRUNCATED

_MAX_ACKNOWLEDGEMENTS: Final = 4


class WriteQueue:
    """Holds at most one batch that waits to be stored, and the ids of all items that are not stored yet."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[WriteBatch | None] = asyncio.Queue(maxsize=1)
        self._unstored: set[str] = set()

    async def put(self, batch: WriteBatch) -> None:
        """Add a batch; wait while another one is in the queue."""
        self._unstored |= {item.id for item in batch.items}
        await self._queue.put(batch)

    async def close(self) -> None:
        """End the queue after the batches that are in it."""
        await self._queue.put(None)

    async def get(self) -> WriteBatch | None:
        """Return the next batch; None at the end. The batch must be marked as done once it is stored."""
        return await self._queue.get()

    def mark_done(self, batch: WriteBatch) -> None:
        """Mark a batch as stored."""
        self._unstored -= {item.id for item in batch.items}
        self._queue.task_done()

    async def wait_for(self, ids: Iterable[str]) -> None:
        """Wait until all batches are stored, if one of them has an item with one of these ids."""
        if not self._unstored.isdisjoint(ids):
            await self._queue.join()


class AcknowledgementQueue:
    """Acknowledgements on their way to the caller, and counts of the documents of the stream."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Sequence[Acknowledgement] | None] = asyncio.Queue(maxsize=_MAX_ACKNOWLEDGEMENTS)
        self.pending = 0
        """Documents that were read and are not acknowledged."""
        self.stored = 0
        """Documents that were acknowledged as indexed."""

    async def put(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        """Add acknowledgements; wait while the queue is full."""
        if not acknowledgements:
            return
        self.pending -= len(acknowledgements)
        for outcome, count in Counter(one.outcome for one in acknowledgements).items():
            self.stored += count if outcome == "indexed" else 0
            INDEXED.labels(outcome).inc(count)
        truncation = Truncation.of(one.dropped_tokens for one in acknowledgements)
        INDEXED_TRUNCATED.inc(truncation.texts)
        INDEXED_DROPPED_TOKENS.inc(truncation.tokens)
        await self._queue.put(acknowledgements)

    async def fail(self, reasons: Mapping[str, str]) -> None:
        """Acknowledge documents as failed, with the reason by the id of each."""
        await self.put([failure(id_, reason) for id_, reason in reasons.items()])

    async def close(self) -> None:
        """End the queue after the acknowledgements that are in it."""
        await self._queue.put(None)

    async def get(self) -> Sequence[Acknowledgement] | None:
        """Return the next acknowledgements; None at the end."""
        return await self._queue.get()
