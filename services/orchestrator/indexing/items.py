"""What an index stream makes of documents: items, each acknowledged once, of one or several stored documents. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sluice.common.v1.document_pb2 import Document

from services.core.batching import BatchLimits, batches


@dataclass(frozen=True)
class Item:
    """A document on its way, and what is stored of it: itself, or its chunks."""

    id: str
    """The caller's."""
    documents: tuple[Document, ...]
    """The first, which says that the item is there and whole, comes last."""
    content_hash: str
    surplus_from: int | None = None
    """Chunks of this number and above are stored of it, and are to be deleted."""

    @classmethod
    def of(cls, id_: str, documents: Sequence[Document], content_hash: str, surplus_from: int | None = None) -> "Item":
        """The item of documents in their order."""
        return cls(id_, (*documents[1:], documents[0]), content_hash, surplus_from)


def grouped(items: Iterable[Item], most_documents: int) -> Iterator[list[Item]]:
    """Yield items in groups of at most so many documents; an item of more documents is a group of its own."""
    return batches(items, BatchLimits(most_documents, most_documents), lambda item: len(item.documents))


def sliced(
    documents: Iterable[tuple[Item, Document]], most_documents: int, most_bytes: int
) -> Iterator[list[tuple[Item, Document]]]:
    """Yield the documents of items, in order, in slices of at most so many documents and bytes."""
    return batches(documents, BatchLimits(most_documents, most_bytes), lambda pair: pair[1].ByteSize())


def refused_items(part: Sequence[tuple[Item, Document]], reasons: Mapping[int, str]) -> dict[str, str]:
    """Why items were refused, by their ids, from reasons by position of a document in a slice."""
    found: dict[str, str] = {}
    for position, reason in sorted(reasons.items()):
        found.setdefault(part[position][0].id, reason)
    return found
