"""Items of an index stream: documents with what is stored of them, and batches of items that are ready to be stored.

Rule: no I/O.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import PreconditionFailed

from services.core.batching import BatchLimits, batches
from services.orchestrator.downstream.vectors import EmbeddingBatch, FieldVectors
from services.orchestrator.indexing.target import Target


@dataclass(frozen=True)
class IndexItem:
    """A document of the caller, acknowledged once, with the documents that are stored of it: itself, or its chunks."""

    id: str
    """The id that the caller gave."""
    documents: tuple[Document, ...]
    """The first chunk comes last: once it is stored, the item is complete."""
    content_hash: str
    surplus_from: int | None = None
    """Number of the first stored chunk that the item no longer has; None if there is none."""

    @classmethod
    def of(
        cls, id_: str, documents: Sequence[Document], content_hash: str, surplus_from: int | None = None
    ) -> "IndexItem":
        """Return the item of documents in the order of their numbers."""
        return cls(id_, (*documents[1:], documents[0]), content_hash, surplus_from)


Slice = list[tuple[IndexItem, Document]]
"""Documents that are embedded or stored in one call, each with its item."""


class ItemsRejected(Exception):
    """A service rejected items. `reasons` has the reason by the id of each item."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(f"{len(reasons)} items")
        self.reasons = reasons


@dataclass(frozen=True)
class WriteBatch:
    """Items with the vectors of their documents, ready to be stored."""

    items: list[IndexItem]
    slices: list[tuple[Slice, list[FieldVectors]]]

    def dropped_tokens(self) -> dict[str, int]:
        """Return how many tokens of each item a model did not read, by the item's id.

        Of several models, the one that dropped the most counts.
        """
        dropped: dict[str, int] = dict.fromkeys((item.id for item in self.items), 0)
        for part, vectors in self.slices:
            for position, (item, _) in enumerate(part):
                dropped[item.id] += max(
                    (one.batch.dropped[position] for one in vectors if one.batch.dropped), default=0
                )
        return dropped

    def without(self, ids: Container[str]) -> "WriteBatch":
        """Return the batch without the items of these ids."""
        slices = [run for part, vectors in self.slices for run in _runs_without(part, vectors, ids)]
        return WriteBatch([item for item in self.items if item.id not in ids], slices)


def group_items(items: Iterable[IndexItem], max_documents: int) -> Iterator[list[IndexItem]]:
    """Yield items in groups of at most so many documents. An item of more documents is a group of its own."""
    return batches(items, BatchLimits(max_documents, max_documents), lambda item: len(item.documents))


def slice_documents(
    documents: Iterable[tuple[IndexItem, Document]], max_documents: int, max_bytes: int
) -> Iterator[Slice]:
    """Yield the documents of items, in order, in slices of at most so many documents and bytes."""
    return batches(documents, BatchLimits(max_documents, max_bytes), lambda pair: pair[1].ByteSize())


def rejected_items(part: Slice, reasons: Mapping[int, str]) -> dict[str, str]:
    """Return the reason by the id of each rejected item, from reasons by position of a document in a slice."""
    found: dict[str, str] = {}
    for position, reason in sorted(reasons.items()):
        found.setdefault(part[position][0].id, reason)
    return found


def field_vectors(target: Target, by_model: Mapping[str, EmbeddingBatch]) -> list[FieldVectors]:
    """Return the vectors of each field. Raises PreconditionFailed if a model changed while the stream was open."""
    for field in target.fields:
        digest = by_model[field.model].model.digest
        if digest != field.digest:
            raise PreconditionFailed(
                f"field {field.name!r} accepts vectors of {field.model} ({field.digest:.12}), got {digest:.12}",
                reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
                metadata={"expected_digest": field.digest, "given_digest": digest},
            )
    return [FieldVectors(field.name, field.kind, by_model[field.model]) for field in target.fields]


def _runs_without(
    part: Slice, vectors: list[FieldVectors], ids: Container[str]
) -> Iterator[tuple[Slice, list[FieldVectors]]]:
    """Yield the runs of a slice between the documents of these items."""
    start = 0
    for end in range(len(part) + 1):
        if end == len(part) or part[end][0].id in ids:
            if end > start:
                yield part[start:end], [one.part(start, end) for one in vectors]
            start = end + 1
