"""Documents of an index stream with their vectors, ready to be stored. Pure."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import PreconditionFailed

from services.orchestrator.downstream.vectors import EmbeddingBatch, FieldVectors
from services.orchestrator.indexing.items import Item
from services.orchestrator.indexing.target import Target

Part = list[tuple[Item, Document]]


@dataclass(frozen=True)
class Prepared:
    """Items with the vectors of their documents, slice by slice, to be stored."""

    items: list[Item]
    slices: list[tuple[Part, list[FieldVectors]]]

    def without(self, ids: Container[str]) -> "Prepared":
        """Return it without these items."""
        slices = [run for part, columns in self.slices for run in _runs_without(part, columns, ids)]
        return Prepared([item for item in self.items if item.id not in ids], slices)


def _runs_without(
    part: Part, columns: list[FieldVectors], ids: Container[str]
) -> Iterator[tuple[Part, list[FieldVectors]]]:
    """Yield the runs of a slice between the documents of these items."""
    start = 0
    for end in range(len(part) + 1):
        if end == len(part) or part[end][0].id in ids:
            if end > start:
                yield part[start:end], [column.part(start, end) for column in columns]
            start = end + 1


def columns_of(target: Target, by_model: Mapping[str, EmbeddingBatch]) -> list[FieldVectors]:
    """Vectors by field. Raises PreconditionFailed when a model changed while the stream was open."""
    for field_ in target.fields:
        digest = by_model[field_.model].model.digest
        if digest != field_.digest:
            raise PreconditionFailed(
                f"field {field_.name!r} takes vectors of {field_.model} ({field_.digest:.12}), got {digest:.12}",
                reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
                metadata={"expected_digest": field_.digest, "given_digest": digest},
            )
    return [FieldVectors(field_.name, field_.kind, by_model[field_.model]) for field_ in target.fields]
