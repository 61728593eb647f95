"""One index stream: documents in, acknowledgements out, with little in memory.

    read ─▶ inbox ─▶ unchanged? ─▶ cut ─▶ embed ─▶ prepared ─▶ upsert ─▶ acknowledged
           (bounded)                               (bounded)             (bounded)

A batch is embedded while the one before is stored. Every queue is bounded, so a slow part, the caller's reading
included, stops the reading of documents: that is the back-pressure.

Rule: what is wrong with one document fails that document; what is wrong with a service ends the stream. A service that
refuses for now is sent smaller batches, and is waited for (`pace.py`, `sending.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Final, Literal

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import InvalidRequest, Unavailable

from services.orchestrator.chunks import FIELDS as CHUNK_FIELDS
from services.orchestrator.chunks import MAX_CHUNKS, MAX_PARENT_BYTES, beyond, chunk_id
from services.orchestrator.documents import DocumentLimits, content_hash, find_problem, rejections, text_of
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import FieldKind, FieldVectors
from services.orchestrator.indexing.batcher import Inbox
from services.orchestrator.indexing.chunker import cut_alone, stored_surplus
from services.orchestrator.indexing.items import Item, grouped, refused_items, sliced
from services.orchestrator.indexing.pace import Pace
from services.orchestrator.indexing.sender import Sender
from services.orchestrator.indexing.target import StreamHeader, Target, open_target
from services.orchestrator.indexing.write_batch import Part, Prepared, columns_of
from services.orchestrator.metrics import INDEXED
from services.rpc.deadline import Deadline

Outcome = Literal["indexed", "unchanged", "failed"]

_INVALID: Final = "INVALID_REQUEST"


@dataclass(frozen=True)
class IndexLimits:
    """How an index stream runs."""

    model: str
    """Embedding model for new collections and unbound fields; empty when the server has one."""
    kinds: tuple[FieldKind, ...]
    """Fields of a new collection."""
    batch_documents: int
    batch_bytes: int
    batch_timeout_s: float
    """For one try to embed a batch, or to store it."""
    patience_s: float
    """How long to go on while a service takes no document."""
    idle_timeout_s: float
    document: DocumentLimits


@dataclass(frozen=True)
class Message:
    """A part of an index stream; `header` is there in the first."""

    header: StreamHeader | None
    documents: Sequence[Document]


@dataclass(frozen=True)
class Acknowledgement:
    """What happened to one document."""

    document_id: str
    outcome: Outcome
    reason: str = ""
    message: str = ""


class _Refused(Exception):
    """Items that a service did not take. Carries why, by their ids."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(f"{len(reasons)} items")
        self.reasons = reasons


@dataclass(eq=False)
class IndexStream:
    """One index stream. Use `acknowledgements` once."""

    services: Services
    limits: IndexLimits
    _unacknowledged: int = 0
    _inbox: Inbox = field(init=False)
    _prepared: "asyncio.Queue[Prepared | None]" = field(init=False)
    _acknowledged: "asyncio.Queue[list[Acknowledgement] | None]" = field(init=False)
    _unstored: set[str] = field(default_factory=set)
    _work: "asyncio.Task[None] | None" = None
    _is_stopped: bool = False
    _reading: "asyncio.Future[Message | None] | None" = None
    _busy_at: float = field(default_factory=monotonic)
    _is_draining: bool = False
    _is_cut: bool = False
    _stored: int = 0
    _embedding: Sender = field(init=False)
    _retrieval: Sender = field(init=False)

    def __post_init__(self) -> None:
        self._embedding, self._retrieval = self._sender("embedding"), self._sender("retrieval")
        self._inbox = Inbox(self.limits.batch_documents, self.limits.batch_bytes)
        self._prepared = asyncio.Queue(maxsize=1)
        self._acknowledged = asyncio.Queue(maxsize=4)

    async def acknowledgements(self, messages: AsyncIterator[Message]) -> AsyncIterator[list[Acknowledgement]]:
        """What happened to documents, as soon as it is known. Raises what ended the stream, after all that is known."""
        self._work = asyncio.create_task(self._run(messages))
        try:
            while (known := await self._acknowledged.get()) is not None:
                yield known
            await self._work
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all work at once: the caller is gone."""
        self._is_stopped = True
        if self._work is not None:
            self._work.cancel()

    def drain(self) -> None:
        """Read no further: what came is indexed and acknowledged, then the stream ends as UNAVAILABLE."""
        self._is_draining = True
        for sender in (self._embedding, self._retrieval):
            sender.drain()
        if self._reading is not None:
            self._reading.cancel()

    async def _run(self, messages: AsyncIterator[Message]) -> None:
        try:
            first = await self._next(messages)
            if first is not None and first.header is not None:
                target = await self._open(first.header)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._read(first, messages, target))
                    group.create_task(self._prepare_all(target))
                    group.create_task(self._store_all(target))
            if self._is_cut:
                raise Unavailable("shutting down: send the rest again", reason=ErrorReason.ERROR_REASON_DRAINING)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            if not self._is_stopped:  # else nobody reads it
                await self._acknowledged.put(None)

    async def _open(self, header: StreamHeader) -> Target:
        limits = self.limits
        # Opened within one batch's time: a caller whose stream cannot even begin should know soon.
        sender = Sender("opening", Pace(1, limits.batch_timeout_s), limits.batch_timeout_s)
        return await sender.call(
            lambda deadline: open_target(
                self.services, header, model=limits.model, kinds=limits.kinds, deadline=deadline
            )
        )

    def _sender(self, service: str) -> Sender:
        limits = self.limits
        pace = Pace(limits.batch_documents, limits.patience_s)
        return Sender(service, pace, limits.batch_timeout_s, lambda: self._stored)

    async def _read(self, message: Message | None, messages: AsyncIterator[Message], target: Target) -> None:
        while message is not None:
            await self._accept(message.documents, target)
            message = await self._next(messages)
        await self._inbox.close()

    async def _next(self, messages: AsyncIterator[Message]) -> Message | None:
        """The next message; None at the end, and when draining. Raises Unavailable when the stream is idle."""
        if self._is_draining:
            self._is_cut = True
            return None
        self._reading = reading = asyncio.ensure_future(anext(messages, None))
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=self._patience_s())
        finally:
            reading.cancel()
        if reading.cancelled():
            self._is_cut = True
            return None
        return reading.result()

    def _patience_s(self) -> float:
        """Seconds until the stream is idle: open with no document coming, and none under way. Raises Unavailable."""
        now = monotonic()
        if self._unacknowledged:
            self._busy_at = now
        left = self._busy_at + self.limits.idle_timeout_s - now
        if left <= 0:
            what = f"no document came for {self.limits.idle_timeout_s:g} s"
            raise Unavailable(what, reason=ErrorReason.ERROR_REASON_STREAM_IDLE)
        return left

    async def _accept(self, documents: Sequence[Document], target: Target) -> None:
        """Put documents into the inbox, and refuse those that are wrong in themselves."""
        limits = self.limits.document
        if target.chunking:
            limits = replace(limits, max_id_bytes=MAX_PARENT_BYTES, reserved=tuple(CHUNK_FIELDS))
        seen: set[str] = set()
        failed: list[Acknowledgement] = []
        for position, document in enumerate(documents):
            what = find_problem(document, limits)
            if what is None and document.document_id in seen:
                what = "document_id: expected unique ids in one message, got this one again; the first counts"
            if what is None:
                seen.add(document.document_id)
                self._unacknowledged += 1
                await self._inbox.put(document)
            else:
                message = f"documents[{position}].{what}"
                failed.append(Acknowledgement(document.document_id, "failed", _INVALID, message))
        if documents:
            self._busy_at = monotonic()
        if failed:
            self._unacknowledged += len(failed)
            await self._acknowledge(failed)

    async def _prepare_all(self, target: Target) -> None:
        while batch := await self._inbox.next_batch():
            if self._unstored & {document.document_id for document in batch}:
                await self._prepared.join()  # else an older version of a document would be compared with
            changed = await self._changed(target, batch)
            await self._prepare(
                target, await self._cut(target, changed) if target.chunking else _whole(target, changed)
            )
        await self._prepared.put(None)

    async def _changed(self, target: Target, batch: list[Document]) -> list[Document]:
        """The documents that are not stored as they are; the others are acknowledged."""
        ids = [document.document_id for document in batch]
        first = {id_: chunk_id(id_, 0) if target.chunking else id_ for id_ in ids}
        asked = list(first.values())
        stored = await self._retrieval.call(
            lambda deadline: self.services.retrieval.content_hashes(target.collection, asked, deadline)
        )
        unchanged = {
            document.document_id
            for document in batch
            if stored.get(first[document.document_id]) == content_hash(document, target.seal)
        }
        await self._acknowledge([Acknowledgement(id_, "unchanged") for id_ in ids if id_ in unchanged])
        return [document for document in batch if document.document_id not in unchanged]

    async def _cut(self, target: Target, documents: list[Document]) -> list[Item]:
        """The documents as chunks; without those of too many, which are acknowledged."""
        chunks, failed = await self._embedding.call(
            lambda deadline: cut_alone(self.services, target, documents, deadline)
        )
        surplus = await self._retrieval.call(
            lambda deadline: stored_surplus(self.services, target.collection, chunks, deadline)
        )
        failed |= {
            id_: f"text: expected at most {MAX_CHUNKS:,} chunks, got {len(own):,}"
            for id_, own in chunks.items()
            if len(own) > MAX_CHUNKS
        }
        await self._fail(failed)
        return [
            Item.of(id_, chunks[id_], content_hash(document, target.seal), surplus.get(id_))
            for document in documents
            if (id_ := document.document_id) not in failed
        ]

    async def _prepare(self, target: Target, items: list[Item]) -> None:
        """Hand items with their vectors over to be stored, as many at a time as the embedding service takes."""
        while items:
            group = next(grouped(items, self._embedding.pace.size))
            try:
                prepared = await self._embedded(target, group)
            except _Refused as refusal:
                items = await self._without_refused(items, refusal)
                continue
            if prepared is not None:
                items = items[len(group) :]
                self._unstored |= {item.id for item in group}
                await self._prepared.put(prepared)

    async def _embedded(self, target: Target, group: list[Item]) -> Prepared | None:
        """The items with their vectors, all of them before any item is stored. None when fewer are to be tried.

        Raises _Refused.
        """
        slices: list[tuple[Part, list[FieldVectors]]] = []
        rest = [(item, document) for item in group for document in item.documents]
        while rest:
            part = next(sliced(rest, self._embedding.pace.size, self.limits.batch_bytes))
            columns = await self._embedding.batch(len(part), partial(self._vectors, target, part))
            if columns is not None:
                slices.append((part, columns))
                rest = rest[len(part) :]
            elif len(group) > 1:
                return None  # the slices of one item are kept: it may have many, and would never be whole
        return Prepared(group, slices)

    async def _vectors(self, target: Target, part: Part, deadline: Deadline) -> list[FieldVectors]:
        """Vectors of a slice for each field. Raises _Refused."""
        texts = [text_of(document) for _, document in part]
        try:
            by_model = {
                model: await self.services.embedding.embed_documents(texts, model=model, kinds=kinds, deadline=deadline)
                for model, kinds in target.encodings.items()
            }
        except InvalidRequest as error:
            raise _Refused(refused_items(part, rejections(error, "texts", len(part)))) from None
        return columns_of(target, by_model)

    async def _store_all(self, target: Target) -> None:
        while (prepared := await self._prepared.get()) is not None:
            await self._store(target, prepared)
            self._unstored -= {item.id for item in prepared.items}
            self._prepared.task_done()

    async def _store(self, target: Target, prepared: Prepared) -> None:
        """Store items whole, but for those that retrieval refuses, which are acknowledged."""
        while prepared.items:
            try:
                await self._write(target, prepared)
            except _Refused as refusal:
                prepared = prepared.without(refusal.reasons)
                await self._fail(refusal.reasons)
            else:
                self._stored += len(prepared.items)
                return await self._acknowledge([Acknowledgement(item.id, "indexed") for item in prepared.items])

    async def _write(self, target: Target, prepared: Prepared) -> None:
        """Write items: what is too much of their old chunks goes first, what says that they are there last."""
        surplus = {item.id: item.surplus_from for item in prepared.items if item.surplus_from is not None}
        if surplus:
            await self._retrieval.call(
                lambda deadline: self.services.retrieval.delete(target.collection, [], beyond(surplus), deadline)
            )
        for part, columns in prepared.slices:
            await self._write_part(target, part, columns)

    async def _write_part(self, target: Target, part: Part, columns: list[FieldVectors]) -> None:
        """Write a slice, as many documents at a time as retrieval takes."""
        start = 0
        while start < len(part):
            end = min(len(part), start + self._retrieval.pace.size)
            own = [column.part(start, end) for column in columns]
            send = partial(self._upsert, target, part[start:end], own)
            if await self._retrieval.batch(end - start, send) is not None:
                start = end

    async def _upsert(self, target: Target, part: Part, columns: list[FieldVectors], deadline: Deadline) -> bool:
        documents, hashes = [document for _, document in part], [item.content_hash for item, _ in part]
        try:
            await self.services.retrieval.upsert(
                target.collection, documents, columns, content_hashes=hashes, deadline=deadline
            )
        except InvalidRequest as error:
            raise _Refused(refused_items(part, rejections(error, "documents", len(part)))) from None
        return True

    async def _without_refused(self, items: list[Item], refusal: _Refused) -> list[Item]:
        """The items that a service did not refuse; the others, at least one, are acknowledged."""
        await self._fail(refusal.reasons)
        return [item for item in items if item.id not in refusal.reasons]

    async def _fail(self, reasons: Mapping[str, str]) -> None:
        await self._acknowledge([Acknowledgement(id_, "failed", _INVALID, what) for id_, what in reasons.items()])

    async def _acknowledge(self, known: list[Acknowledgement]) -> None:
        if known:
            self._unacknowledged -= len(known)
            for acknowledgement in known:
                INDEXED.labels(acknowledgement.outcome).inc()
            await self._acknowledged.put(known)


def _whole(target: Target, documents: list[Document]) -> list[Item]:
    return [Item.of(document.document_id, [document], content_hash(document, target.seal)) for document in documents]
