"""Rows of rerankers that are language models: a query and documents in a prompt.

Rule: a text is tokenized once, with the literal text beside it. Truncation slices its ids. The prompt is never cut.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from services.inference.bundle import Prompt, Slot
from services.inference.tokenizer import Ids, Input, Tokenizer, TooLong, Truncation, cut, split_room

# Fewest tokens of each text for which a limit leaves room.
_LEAST_TOKENS: Final = 4


@dataclass(frozen=True)
class ListRow:
    """The row of a query and several documents."""

    row: Input
    query: Input
    """The ids of the query in its first slot, and the number of its truncated tokens."""
    documents: tuple[Input, ...]
    """The ids of each document in the row, and the number of its truncated tokens."""


@dataclass(frozen=True)
class _Context:
    """A slot, and the ids of the literal text beside its text, which are kept when the text is truncated."""

    slot: Slot
    before: Ids
    after: Ids


class PromptRows:
    """Makes the rows of one bundle. Raises ValueError if the limit leaves no room for texts.

    max_token_count  longest row, including the prompt
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, *, max_token_count: int) -> None:
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._max = max_token_count
        self._anchor = len(tokenizer.tokenize([prompt.anchor])[0]) if prompt.anchor else 0
        self.most_documents = len(prompt.identifiers) or 1
        """Most documents of a row."""
        self._literals: dict[tuple[str, str], Ids] = {}
        head, document, tail = (
            [self._context(part) for part in parts if isinstance(part, Slot)]
            for parts in (prompt.head, prompt.document, prompt.tail)
        )
        self._queries, self._document = [*head, *tail], document[0]
        room = max_token_count - self._fixed_count(self.most_documents)
        least = _LEAST_TOKENS * (self.most_documents + len(self._queries))
        if room < least:
            raise ValueError(f"expected a limit of {max_token_count - room + least} tokens or more for the prompt")

    def texts(self, query: str, documents: Sequence[str]) -> list[str]:
        """Return the texts to tokenize: the query once for each of its slots, then the documents."""
        queries = [self._text(context.slot, query) for context in self._queries]
        return [*queries, *(self._text(self._document.slot, document) for document in documents)]

    def split(self, ids: Sequence[Ids]) -> tuple[list[Ids], list[Ids]]:
        """Return the ids of the query in each of its slots, and those of the documents, from the ids of `texts`."""
        own = [one[self._anchor :] for one in ids]
        return own[: len(self._queries)], own[len(self._queries) :]

    def pair(self, queries: Sequence[Ids], document: Ids, truncation: Truncation) -> Input:
        """Return the row of a query and a document. The longer of the two is truncated first. Raises TooLong."""
        return self.row(queries, [document], truncation).row

    def pair_windows(self, queries: Sequence[Ids], document: Ids, overlap: int) -> list[Input]:
        """Return rows that cover a whole document, each with the query as `query_of_windows` truncates it.

        Raises ValueError.
        """
        queries = self.query_of_windows(queries)
        room = self._max - self._fixed_count(1) - sum(map(len, queries))
        before, after = self._document.before, self._document.after
        pieces = cut(document, room - len(before) - len(after), overlap)
        whole = [
            array("i", chain(before if number else (), piece, after if number < len(pieces) - 1 else ()))
            for number, piece in enumerate(pieces)
        ]
        return [self.pair(queries, piece, "end") for piece in whole]

    def query_of_windows(self, queries: Sequence[Ids]) -> list[Ids]:
        """Return the part of a query that is read with each window of a document: at most half of the row."""
        return self._fit_query(queries, (self._max - self._fixed_count(1)) // 2)

    def row(self, queries: Sequence[Ids], documents: Sequence[Ids], truncation: Truncation) -> ListRow:
        """Return the row of a query and documents, which share the limit: the longest lose tokens first.

        Query and documents are truncated as a pair is. Raises TooLong.
        """
        fixed = self._fixed_count(len(documents))
        query_count, document_count = sum(map(len, queries)), sum(map(len, documents))
        if truncation == "refuse" and query_count + document_count + fixed > self._max:
            raise TooLong(query_count + document_count + fixed, self._max)
        query_room, document_room = split_room(query_count, document_count, self._max - fixed)
        kept_queries = self._fit_query(queries, query_room)
        kept = [
            _fit(ids, room, self._document, truncation)
            for ids, room in zip(documents, share([len(ids) for ids in documents], document_room), strict=True)
        ]
        ids = tuple(chain.from_iterable(self._parts(kept_queries, kept)))
        dropped = query_count + document_count + fixed - len(ids)
        return ListRow(
            Input(ids, None, dropped), _part(queries[0], kept_queries[0]), tuple(map(_part, documents, kept))
        )

    def _fit_query(self, queries: Sequence[Ids], room: int) -> list[Ids]:
        """Return the ids of the query in each of its slots, of which all together have room."""
        rooms = share([len(ids) for ids in queries], room)
        return [_fit(*given, "end") for given in zip(queries, rooms, self._queries, strict=True)]

    def _parts(self, queries: Sequence[Ids], documents: Sequence[Ids]) -> Iterator[Ids]:
        """Yield the ids of each part of a row. Adjacent literals are one part."""
        slots = self._in_order(queries, documents)
        literal, anchor = "", ""
        for part in self._filled(len(documents)):
            if isinstance(part, str):
                literal += part
                continue
            if literal:
                yield self._tokenize(literal, anchor)
            yield next(slots)
            literal, anchor = "", self._prompt.anchor
        if literal:
            yield self._tokenize(literal, anchor)

    def _in_order(self, queries: Sequence[Ids], documents: Sequence[Ids]) -> Iterator[Ids]:
        """Yield the ids of slots in the order of the prompt."""
        in_head = sum(isinstance(part, Slot) for part in self._prompt.head)
        return chain(queries[:in_head], documents, queries[in_head:])

    def _filled(self, count: int) -> Iterator[str | Slot]:
        """Yield the parts of a prompt with so many documents."""
        identifiers = self._prompt.identifiers or ("",)
        documents = chain.from_iterable(
            [_filled(part, "{identifier}", identifier) for part in self._prompt.document]
            for identifier in identifiers[:count]
        )
        for part in (*self._prompt.head, *documents, *self._prompt.tail):
            yield _filled(part, "{count}", str(count))

    def _fixed_count(self, count: int) -> int:
        """Return the tokens of a row that are literal text."""
        return sum(map(len, self._parts([array("i")] * len(self._queries), [array("i")] * count)))

    def _tokenize(self, text: str, anchor: str) -> Ids:
        """Return the ids of literal text, tokenized once."""
        if (anchor, text) not in self._literals:
            [ids] = self._tokenizer.tokenize([anchor + text])
            self._literals[anchor, text] = ids[self._anchor if anchor else 0 :]
        return self._literals[anchor, text]

    def _text(self, slot: Slot, text: str) -> str:
        return "".join((self._prompt.anchor, slot.before, text, slot.after))

    def _context(self, slot: Slot) -> _Context:
        anchor = self._prompt.anchor
        return _Context(slot, self._tokenize(slot.before, anchor), self._tokenize(slot.after, anchor))


def _filled(part: str | Slot, field: str, value: str) -> str | Slot:
    return part.replace(field, value) if isinstance(part, str) else part


def _fit(ids: Ids, room: int, context: _Context, truncation: Truncation) -> Ids:
    """Return the ids that fit, with the literal text on the side that is truncated."""
    if len(ids) <= room:
        return ids
    if truncation == "start":
        return context.before + ids[len(ids) - max(room - len(context.before), 0) :]
    return ids[: max(room - len(context.after), 0)] + context.after


def _part(given: Ids, kept: Ids) -> Input:
    return Input(tuple(kept), None, len(given) - len(kept))


def share(lengths: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of each text fit. The longest are truncated first, until all are equal."""
    kept = [0] * len(lengths)
    shortest_first = sorted(range(len(lengths)), key=lengths.__getitem__)
    for number, index in enumerate(shortest_first):
        kept[index] = min(lengths[index], room // (len(lengths) - number))
        room -= kept[index]
    return kept
