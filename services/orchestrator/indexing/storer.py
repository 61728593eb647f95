"""The last part of an index stream: stores items with their vectors, and acknowledges them."""

from dataclasses import dataclass
from functools import partial

from sluice.errors import InvalidRequest

from services.orchestrator.chunks import beyond
from services.orchestrator.documents import rejections
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import FieldVectors
from services.orchestrator.indexing.items import ItemsRejected, Slice, WriteBatch, rejected_items
from services.orchestrator.indexing.messages import Acknowledgement
from services.orchestrator.indexing.queues import AcknowledgementQueue, WriteQueue
from services.orchestrator.indexing.sender import Sender
from services.rpc.deadline import Deadline


@dataclass(frozen=True)
class Storer:
    """Stores the batches of a queue."""

    services: Services
    collection: str
    retrieval: Sender
    writes: WriteQueue
    acknowledgements: AcknowledgementQueue

    async def run(self) -> None:
        """Store all batches."""
        while (batch := await self.writes.get()) is not None:
            await self._store(batch)
            self.writes.mark_done(batch)

    async def _store(self, batch: WriteBatch) -> None:
        """Store the items of a batch, each as a whole. Acknowledge items that retrieval rejects as failed."""
        while batch.items:
            try:
                await self._write(batch)
            except ItemsRejected as rejected:
                batch = batch.without(rejected.reasons)
                await self.acknowledgements.fail(rejected.reasons)
            else:
                dropped = batch.dropped_tokens()
                await self.acknowledgements.put(
                    [Acknowledgement(item.id, "indexed", dropped_tokens=dropped[item.id]) for item in batch.items]
                )
                return

    async def _write(self, batch: WriteBatch) -> None:
        """Delete the surplus chunks of old versions, then write the documents. Raises ItemsRejected."""
        surplus = {item.id: item.surplus_from for item in batch.items if item.surplus_from is not None}
        if surplus:
            await self.retrieval.call(
                lambda deadline: self.services.retrieval.delete(self.collection, [], beyond(surplus), deadline)
            )
        for part, vectors in batch.slices:
            await self._write_slice(part, vectors)

    async def _write_slice(self, part: Slice, vectors: list[FieldVectors]) -> None:
        """Write a slice, as many documents at a time as retrieval accepts. Raises ItemsRejected."""
        start = 0
        while start < len(part):
            end = min(len(part), start + self.retrieval.pace.size)
            upsert = partial(self._upsert, part[start:end], [one.part(start, end) for one in vectors])
            if await self.retrieval.batch(end - start, upsert) is not None:
                start = end

    async def _upsert(self, part: Slice, vectors: list[FieldVectors], deadline: Deadline) -> bool:
        """Write documents, and return True. Raises ItemsRejected.

        One call writes them, or several if retrieval rejects the documents together.
        """
        documents, hashes = [document for _, document in part], [item.content_hash for item, _ in part]
        try:
            await self.services.retrieval.upsert(
                self.collection, documents, vectors, content_hashes=hashes, deadline=deadline
            )
        except InvalidRequest as error:
            if reasons := rejections(error, "documents", len(part)):
                raise ItemsRejected(rejected_items(part, reasons)) from None
            middle = len(part) // 2
            for start, end in ((0, middle), (middle, len(part))):
                await self._upsert(part[start:end], [one.part(start, end) for one in vectors], deadline)
        return True
