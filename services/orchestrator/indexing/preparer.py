"""The second part of an index stream: skips unchanged documents, cuts the others into chunks, and embeds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest

from services.orchestrator.chunks import MAX_CHUNKS, chunk_id
from services.orchestrator.documents import content_hash, rejections, text_of
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import FieldVectors
from services.orchestrator.indexing.batcher import DocumentBatcher
from services.orchestrator.indexing.chunker import chunk_documents, stored_surplus
from services.orchestrator.indexing.items import (
    IndexItem,
    ItemsRejected,
    Slice,
    WriteBatch,
    field_vectors,
    group_items,
    rejected_items,
    slice_documents,
)
from services.orchestrator.indexing.messages import Acknowledgement
from services.orchestrator.indexing.queues import AcknowledgementQueue, WriteQueue
from services.orchestrator.indexing.sender import Sender
from services.orchestrator.indexing.target import Target
from services.rpc.deadline import Deadline

Hashed = list[tuple[Document, str]]
"""Documents, each with its content hash."""


@dataclass(frozen=True)
class Preparer:
    """Turns batches of documents into batches of items with vectors."""

    services: Services
    target: Target
    embedding: Sender
    retrieval: Sender
    max_bytes: int
    """Most bytes of documents that are embedded at once."""
    batches: DocumentBatcher
    writes: WriteQueue
    acknowledgements: AcknowledgementQueue

    async def run(self) -> None:
        """Prepare all batches."""
        while batch := await self.batches.next_batch():
            # A document is compared with its stored version, so an older version must be stored first.
            await self.writes.wait_for(document.document_id for document in batch)
            changed = await self._skip_unchanged(batch)
            await self._embed_all(await self._chunk(changed) if self.target.chunking else whole_items(changed))
        await self.writes.close()

    async def _skip_unchanged(self, batch: Sequence[Document]) -> Hashed:
        """Return the documents that are not stored with the same content; acknowledge the others."""
        first = {one.document_id: self._first_id(one.document_id) for one in batch}
        asked = list(first.values())
        stored = await self.retrieval.call(
            lambda deadline: self.services.retrieval.content_hashes(self.target.collection, asked, deadline)
        )
        hashed = [(one, content_hash(one, self.target.fingerprint)) for one in batch]
        unchanged = {one.document_id for one, own in hashed if stored.get(first[one.document_id]) == own}
        await self.acknowledgements.put([Acknowledgement(id_, "unchanged") for id_ in first if id_ in unchanged])
        return [pair for pair in hashed if pair[0].document_id not in unchanged]

    def _first_id(self, id_: str) -> str:
        """Return the id under which the content hash of a document is stored."""
        return chunk_id(id_, 0) if self.target.chunking else id_

    async def _chunk(self, hashed: Hashed) -> list[IndexItem]:
        """Return an item of chunks for each document; acknowledge those that cannot be cut as failed."""
        documents = [document for document, _ in hashed]
        chunks, failed = await self.embedding.call(
            lambda deadline: chunk_documents(self.services, self.target, documents, deadline)
        )
        surplus = await self.retrieval.call(
            lambda deadline: stored_surplus(self.services, self.target.collection, chunks, deadline)
        )
        failed |= too_many(chunks)
        await self.acknowledgements.fail(failed)
        return [
            IndexItem.of(id_, chunks[id_], own_hash, surplus.get(id_))
            for document, own_hash in hashed
            if (id_ := document.document_id) not in failed
        ]

    async def _embed_all(self, items: list[IndexItem]) -> None:
        """Queue the items with their vectors, as many at a time as the embedding service accepts."""
        while items:
            group = next(group_items(items, self.embedding.pace.size))
            try:
                batch = await self._embed(group)
            except ItemsRejected as rejected:
                await self.acknowledgements.fail(rejected.reasons)
                items = [item for item in items if item.id not in rejected.reasons]
                continue
            if batch is not None:
                items = items[len(group) :]
                await self.writes.put(batch)

    async def _embed(self, group: list[IndexItem]) -> WriteBatch | None:
        """Return the items with all their vectors. None if a smaller group should be tried.

        An item is stored only after all its documents are embedded. Raises ItemsRejected.
        """
        slices: list[tuple[Slice, list[FieldVectors]]] = []
        rest = [(item, document) for item in group for document in item.documents]
        while rest:
            part = next(slice_documents(rest, self.embedding.pace.size, self.max_bytes))
            embedded = await self.embedding.batch(len(part), partial(self._embed_slice, part))
            if embedded is not None:
                slices += embedded
                rest = rest[len(part) :]
            elif len(group) > 1:
                # A single item keeps its slices: it may have so many that starting again would never succeed.
                return None
        return WriteBatch(group, slices)

    async def _embed_slice(self, part: Slice, deadline: Deadline) -> list[tuple[Slice, list[FieldVectors]]]:
        """Return a slice with its vectors for each field, in parts if the service rejects the documents together.

        It does so if their vectors exceed a message. Raises ItemsRejected.
        """
        texts = [text_of(document) for _, document in part]
        embed = self.services.embedding.embed_documents
        try:
            by_model = {
                model: await embed(texts, model=model, kinds=kinds, windows=self.target.windows, deadline=deadline)
                for model, kinds in self.target.encodings.items()
            }
        except InvalidRequest as error:
            if reasons := rejections(error, "texts", len(part)):
                raise ItemsRejected(rejected_items(part, reasons)) from None
            middle = len(part) // 2
            first = await self._embed_slice(part[:middle], deadline)
            return first + await self._embed_slice(part[middle:], deadline)
        return [(part, field_vectors(self.target, by_model))]


def whole_items(hashed: Hashed) -> list[IndexItem]:
    """Return an item for each document that is stored whole."""
    return [IndexItem.of(document.document_id, [document], own_hash) for document, own_hash in hashed]


def too_many(chunks: Mapping[str, Sequence[Document]]) -> dict[str, str]:
    """Return the reasons why documents of too many chunks fail, by their ids."""
    return {
        id_: f"text: expected at most {MAX_CHUNKS:,} chunks, got {len(own):,}"
        for id_, own in chunks.items()
        if len(own) > MAX_CHUNKS
    }
