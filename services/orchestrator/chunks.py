"""Chunks of documents: their ids, their texts and their parents.

    parent "a"  ──▶  "a#0", "a#1", ...  with the metadata parent_id = "a" and chunk = 0, 1, ...

Rule: no I/O. In a collection of chunks every stored document is a chunk, so the last "#" of an id always ends the id of
the parent. A collection holds chunks if it has the two metadata fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.common.v1.filter_pb2 import Comparison, Filter, FilterList, Membership

from services.core.ranking import Ranking
from services.orchestrator.downstream.schemas import Collection, metadata_types

PARENT: Final = "parent_id"
NUMBER: Final = "chunk"
FIELDS: Final[Mapping[str, str]] = {PARENT: "string", NUMBER: "number"}
# The limit of 512 bytes for ids, less "#" and the number of a chunk.
MAX_PARENT_BYTES: Final = 500
MAX_CHUNKS: Final = 1000
# A chunk ends between words if there is a space in its last part, which is this share of it.
_FLEXIBLE_SHARE: Final = 0.25

Span = tuple[int, int]


@dataclass(frozen=True)
class Chunking:
    """How documents are cut into chunks."""

    tokens: int
    """Most tokens of a chunk, including the title."""
    overlap: int
    """Tokens that a chunk shares with the previous one."""


def is_chunked(collection: Collection) -> bool:
    """Return whether a collection holds chunks."""
    types = metadata_types(collection)
    return all(types.get(name) == type_ for name, type_ in FIELDS.items())


def chunk_id(parent_id: str, number: int) -> str:
    """Return the id of a chunk."""
    return f"{parent_id}#{number}"


def parent_of(id_: str) -> str:
    """Return the id of a chunk's parent."""
    return id_.rpartition("#")[0]


def is_chunk(document: Document) -> bool:
    """Return whether a document is a chunk, by its metadata and its id."""
    parent, number = document.metadata.get(PARENT), document.metadata.get(NUMBER)
    if parent is None or number is None:
        return False
    return document.document_id == f"{parent.string_value}#{number.number_value:.0f}"


def best_of_each_parent(ranking: Ranking) -> Ranking:
    """Return the ranking with only the best chunk of each parent."""
    best: dict[str, tuple[str, float]] = {}
    for id_, score in ranking.items():
        best.setdefault(parent_of(id_), (id_, score))
    return Ranking.of(best.values())


def chunks_of(document: Document, spans: Sequence[Span], title_tokens: int, chunking: Chunking) -> list[Document]:
    """Return the chunks of a document, at least one.

    spans         start and end of each token of its text, in characters
    title_tokens  tokens that its title and the model add to every chunk
    """
    tokens = max(chunking.tokens - title_tokens, chunking.tokens // 2)
    overlap = min(chunking.overlap, tokens // 2)
    texts = [document.text[start:end] for start, end in cut(document.text, spans, tokens, overlap)]
    chunks = []
    for number, text in enumerate(texts):
        chunk = Document(
            document_id=chunk_id(document.document_id, number),
            title=document.title,
            text=text,
            metadata=document.metadata,
        )
        chunk.metadata[PARENT].CopyFrom(MetadataValue(string_value=document.document_id))
        chunk.metadata[NUMBER].CopyFrom(MetadataValue(number_value=number))
        chunks.append(chunk)
    return chunks


def cut(text: str, spans: Sequence[Span], tokens: int, overlap: int) -> Iterator[Span]:
    """Yield the start and end of each piece of a text, in characters.

    A piece has at most `tokens` tokens and shares `overlap` of them with the previous piece. The pieces contain the
    whole text, except for white space between two pieces. They end and begin between words if a space is near.
    """
    first, count = 0, len(spans)
    while True:
        last = min(first + tokens, count)
        if last < count:
            last = _between_words(text, spans, last, first + tokens - max(1, int(_FLEXIBLE_SHARE * tokens)))
        start = spans[first][0] if first else 0
        yield start, spans[last - 1][1] if last < count else len(text)
        if last >= count:
            return
        first = max(_between_words(text, spans, last - overlap, last - overlap - overlap // 2), first + 1)


def _between_words(text: str, spans: Sequence[Span], position: int, least: int) -> int:
    """Return the last token, from `position` down to `least`, that begins a word; `position` if there is none."""
    for candidate in range(position, max(least, 1) - 1, -1):
        start = spans[candidate][0]
        if text[start - 1 : start + 1].strip() != text[start - 1 : start + 1] or spans[candidate - 1][1] < start:
            return candidate
    return position


def of_parents(parent_ids: Sequence[str]) -> Filter:
    """Return the filter of the chunks of these documents."""
    values = [MetadataValue(string_value=id_) for id_ in parent_ids]
    return Filter(membership=Membership(field=PARENT, values=values))


def beyond(counts: Mapping[str, int]) -> Filter:
    """Return the filter of the chunks of each parent from this number on."""
    each = [
        _both(of_parents([id_]), _numbered(Comparison.OPERATOR_GREATER_OR_EQUAL, number))
        for id_, number in counts.items()
    ]
    return Filter(any_of=FilterList(filters=each))


def first_of(only: Filter) -> Filter:
    """Return the filter of the first chunks among the documents that match: one for each parent."""
    return _both(only, _numbered(Comparison.OPERATOR_EQUAL, 0))


def _both(first: Filter, second: Filter) -> Filter:
    return Filter(all_of=FilterList(filters=[first, second]))


def _numbered(operator: "Comparison.Operator.ValueType", number: int) -> Filter:
    comparison = Comparison(field=NUMBER, operator=operator, value=MetadataValue(number_value=number))
    return Filter(comparison=comparison)
