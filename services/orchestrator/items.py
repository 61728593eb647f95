"""What an index stream makes of documents: items, each acknowledged once, of one or several stored documents. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sluice.common.v1.document_pb2 import Document


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
    """The items in groups of at most so many documents; one of more is a group alone."""
    group: list[Item] = []
    count = 0
    for item in items:
        if group and count + len(item.documents) > most_documents:
            yield group
            group, count = [], 0
        group.append(item)
        count += len(item.documents)
    if group:
        yield group


def sliced(
    documents: Iterable[tuple[Item, Document]], most_documents: int, most_bytes: int
) -> Iterator[list[tuple[Item, Document]]]:
    """The documents of items, in order, in slices of at most so many; and of so many bytes, or one."""
    part: list[tuple[Item, Document]] = []
    size = 0
    for item, document in documents:
        bytes_ = document.ByteSize()
        if part and (len(part) == most_documents or size + bytes_ > most_bytes):
            yield part
            part, size = [], 0
        part.append((item, document))
        size += bytes_
    if part:
        yield part


def refused_items(part: Sequence[tuple[Item, Document]], reasons: Mapping[int, str]) -> dict[str, str]:
    """Why items were refused, by their ids, from reasons by position of a document in a slice."""
    found: dict[str, str] = {}
    for position, reason in sorted(reasons.items()):
        found.setdefault(part[position][0].id, reason)
    return found
