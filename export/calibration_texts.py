"""Real text to calibrate and measure graphs: Python's language reference, from bare titles to long passages.

Facts: `pydoc_data.topics` holds 79 topics and about 2,600 paragraphs; a text here has from 1 to about 600 tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pydoc_data.topics import topics
from typing import Final, TypeVar

Item = str | tuple[str, str] | tuple[str, tuple[str, ...]]
"""A text, a query and a document, or a query and a list of documents."""

T = TypeVar("T")

# Numbers of paragraphs in successive documents: mixed lengths, like real input.
_PARAGRAPHS: Final = (1, 2, 1, 4, 1, 10)
_LIST_CHARACTERS: Final = 160


@dataclass(frozen=True)
class Sample:
    """Queries and documents, and the items to run for a score of each document for each query."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    is_pairs: bool
    is_lists: bool = False

    @property
    def items(self) -> list[Item]:
        """Queries, then documents, for a bi-encoder; each query with all documents for a cross-encoder.

        They are in turn, or together in a list.
        """
        if self.is_lists:
            return [(query, self.documents) for query in self.queries]
        if self.is_pairs:
            return [(query, document) for query in self.queries for document in self.documents]
        return [*self.queries, *self.documents]


def text_sample(*, is_large: bool = False) -> Sample:
    """Return 48 queries and 192 documents for a bi-encoder; 12 and 48 for a large model."""
    queries, documents = (12, 48) if is_large else (48, 192)
    return Sample(_titles(queries), _documents(documents), is_pairs=False)


def pair_sample(*, is_large: bool = False) -> Sample:
    """Return 6 queries with 32 documents each for a cross-encoder; 3 with 12 for a large model."""
    queries, documents = (3, 12) if is_large else (6, 32)
    return Sample(_titles(queries), _documents(documents), is_pairs=True)


def list_sample() -> Sample:
    """Return 3 queries with a list of 20 documents for a listwise reranker, about 800 tokens each."""
    documents = tuple(text[:_LIST_CHARACTERS] for text in _documents(20))
    return Sample(_titles(3), documents, is_pairs=True, is_lists=True)


def calibration_items(*, is_pairs: bool) -> list[Item]:
    """Return 36 items for calibration, about 4,000 tokens. The passages differ from those of the measurements."""
    documents = _passages(37)[1:]
    if not is_pairs:
        return list(documents)
    return list(zip(cycle(_titles(11)), documents, strict=False))


def _titles(count: int) -> tuple[str, ...]:
    return tuple(name.replace("-", " ") for name in _spread(sorted(topics), count))


def _documents(count: int) -> tuple[str, ...]:
    """Return passages, the shortest first, so that batches of consecutive items have little padding."""
    return tuple(sorted(_passages(count), key=len))


def _passages(count: int) -> list[str]:
    paragraphs = [
        text
        for name in sorted(topics)
        for part in topics[name].split("\n\n")
        if len(text := " ".join(part.split())) > 3
    ]
    starts = _spread(range(len(paragraphs) - max(_PARAGRAPHS)), count)
    return [
        " ".join(paragraphs[start : start + length]) for start, length in zip(starts, cycle(_PARAGRAPHS), strict=False)
    ]


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of the items, evenly from first to last."""
    return [items[index * len(items) // count] for index in range(count)]
