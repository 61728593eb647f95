"""Documents cut into chunks: their ids, their texts, and which parent they are of.

    parent "a"  ──▶  "a#0", "a#1", ...  with the metadata parent_id = "a" and chunk = 0, 1, ...

Rule: pure. In a collection of chunks every stored document is one, so an id's last "#" always ends the parent's id, and
the way back needs nothing else. Whether a collection holds chunks is said by its two metadata fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.common.v1.filter_pb2 import Comparison, Filter, FilterList, Membership

from services.core.ranking import Ranking
from services.orchestrator.downstream.schemas import Collection, types_of

PARENT: Final = "parent_id"
NUMBER: Final = "chunk"
FIELDS: Final[Mapping[str, str]] = {PARENT: "string", NUMBER: "number"}
# Of 512 bytes, what "#" and the number of a chunk leave.
MAX_PARENT_BYTES: Final = 500
MAX_CHUNKS: Final = 1000
# A chunk ends between words when there is a space in its last part, which is this share of it.
_LOOSE_SHARE: Final = 0.25

Span = tuple[int, int]


@dataclass(frozen=True)
class Chunking:
    """How documents are cut."""

    tokens: int
    """Of a chunk at most, with its title."""
    overlap: int
    """Tokens that a chunk shares with the one before."""


def is_chunked(collection: Collection) -> bool:
    """Whether a collection holds chunks."""
    types = types_of(collection)
    return all(types.get(name) == type_ for name, type_ in FIELDS.items())


def chunk_id(parent_id: str, number: int) -> str:
    """The id of a chunk."""
    return f"{parent_id}#{number}"


def parent_of(id_: str) -> str:
    """The id of the document that a chunk is of."""
    return id_.rpartition("#")[0]


def is_chunk(document: Document) -> bool:
    """Whether a document is a chunk: by its metadata and its id."""
    parent, number = document.metadata.get(PARENT), document.metadata.get(NUMBER)
    if parent is None or number is None:
        return False
    return document.document_id == f"{parent.string_value}#{number.number_value:.0f}"


def best_of_each_parent(ranking: Ranking) -> Ranking:
    """The ranking with the best chunk of each parent alone."""
    best: dict[str, tuple[str, float]] = {}
    for id_, score in ranking.items():
        best.setdefault(parent_of(id_), (id_, score))
    return Ranking.of(best.values())


def chunks_of(document: Document, spans: Sequence[Span], title_tokens: int, chunking: Chunking) -> list[Document]:
    """The chunks of a document, one at least.

    spans         where each token of its text begins and ends, in characters
    title_tokens  tokens that its title takes in every chunk, and those that the model adds
    """
    room = max(chunking.tokens - title_tokens, chunking.tokens // 2)
    overlap = min(chunking.overlap, room // 2)
    texts = [document.text[start:end] for start, end in cut(document.text, spans, room, overlap)]
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


def cut(text: str, spans: Sequence[Span], room: int, overlap: int) -> Iterator[Span]:
    """Where each piece of a text begins and ends, in characters.

    A piece has at most `room` tokens, `overlap` of them shared with the one before. All of the text is in a piece, but
    for white space between two. Pieces end and begin between words where there is a space near enough.
    """
    first, count = 0, len(spans)
    while True:
        last = min(first + room, count)
        if last < count:
            last = _between_words(text, spans, last, first + room - max(1, int(_LOOSE_SHARE * room)))
        start = spans[first][0] if first else 0
        yield start, spans[last - 1][1] if last < count else len(text)
        if last >= count:
            return
        first = max(_between_words(text, spans, last - overlap, last - overlap - overlap // 2), first + 1)


def _between_words(text: str, spans: Sequence[Span], position: int, least: int) -> int:
    """The last token, from `position` down to `least`, that begins a word; `position` when there is none."""
    for candidate in range(position, max(least, 1) - 1, -1):
        start = spans[candidate][0]
        if text[start - 1 : start + 1].strip() != text[start - 1 : start + 1] or spans[candidate - 1][1] < start:
            return candidate
    return position


def of_parents(parent_ids: Sequence[str]) -> Filter:
    """The chunks of these documents."""
    values = [MetadataValue(string_value=id_) for id_ in parent_ids]
    return Filter(membership=Membership(field=PARENT, values=values))


def beyond(counts: Mapping[str, int]) -> Filter:
    """The chunks of each parent from that number on."""
    each = [
        _both(of_parents([id_]), _numbered(Comparison.OPERATOR_GREATER_OR_EQUAL, number))
        for id_, number in counts.items()
    ]
    return Filter(any_of=FilterList(filters=each))


def first_of(only: Filter) -> Filter:
    """The first chunks among what matches: one a parent."""
    return _both(only, _numbered(Comparison.OPERATOR_EQUAL, 0))


def _both(first: Filter, second: Filter) -> Filter:
    return Filter(all_of=FilterList(filters=[first, second]))


def _numbered(operator: "Comparison.Operator.ValueType", number: int) -> Filter:
    comparison = Comparison(field=NUMBER, operator=operator, value=MetadataValue(number_value=number))
    return Filter(comparison=comparison)
