"""Conversion of texts to token ids, alone or in pairs, with truncation.

Rule: a text is tokenized once, without special tokens. Everything later slices ids. A query is therefore tokenized once
for all its documents, and the number of truncated tokens is exact.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import tokenizers

from services.core.arrays import F32

Truncation = Literal["end", "start", "refuse"]
Ids: TypeAlias = "array[int]"
"""Token ids of a text, 4 bytes each."""

# Words that every vocabulary splits into at least one token, to find the positions of special tokens.
_PROBE: Final = ("a", "b")


class TooLong(Exception):
    """An input that exceeds the model's limit, while its caller refuses truncation. Has both token counts."""

    def __init__(self, given: int, limit: int) -> None:
        super().__init__(f"expected at most {limit} tokens, got {given}")
        self.given = given
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Input:
    """One row for the model: its ids, including special tokens, and the number of truncated tokens."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...] | None = None
    """Segments of a pair; None for a single text, whose segments are all 0."""
    dropped: int = 0
    """Number of truncated tokens."""
    key: bytes = field(init=False, repr=False, compare=False)
    """Ids and segments as bytes. Rows with equal keys are equal. Unlike a tuple, bytes are hashed only once."""

    def __post_init__(self) -> None:
        key = array("i", self.ids).tobytes()
        if self.type_ids is not None:
            key = b"".join((key, array("i", self.type_ids), b"+"))
        object.__setattr__(self, "key", key)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and the characters [start, end) of the text that it stands for; (0, 0) for a special token."""

    id: int
    text: str
    """Those characters; the name of a special token."""
    is_special: bool
    start: int
    end: int


@dataclass(frozen=True)
class _Template:
    """The special tokens before, between and after the texts, and the segment of each part."""

    parts: tuple[tuple[int, ...], ...]
    segments: tuple[int, ...]

    @property
    def special_count(self) -> int:
        return sum(map(len, self.parts))


class Tokenizer:
    """The tokenizer of one bundle.

    path             tokenizer.json
    max_token_count  longest input, including special tokens
    """

    def __init__(self, path: Path, *, max_token_count: int) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max = max_token_count
        self._single = self._probe(_PROBE[:1])
        self._pair = self._probe(_PROBE)
        self.vocabulary_size = int(self._tokenizer.get_vocab_size())
        """Number of tokens; all ids are lower. Stored, because the library takes 6 ms to count them."""

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text, without special tokens. Releases the GIL; long lists use all cores."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [array("i", encoding.ids) for encoding in encodings]

    def split(self, texts: Sequence[str], *, special: bool) -> list[list[Token]]:
        """Return the tokens of each text, with special tokens if wanted. Nothing is truncated.

        Releases the GIL while it tokenizes, which the library's `encode` does not.
        """
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=special)
        return [_tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def join(self, sequences: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each sequence of token ids, which must be below `vocabulary_size`.

        Releases the GIL, which the library's `decode` does not.
        """
        found = self._tokenizer.decode_batch(list(map(list, sequences)), skip_special_tokens=skip_special)
        return list(map(str, found))

    def single(self, ids: Sequence[int], truncation: Truncation) -> Input:
        """Return the row of one text. Raises TooLong."""
        kept, dropped = self._fit(ids, self._max - self._single.special_count, truncation)
        before, after = self._single.parts
        return Input((*before, *kept, *after), None, dropped)

    def pair(self, query: Sequence[int], document: Sequence[int], truncation: Truncation) -> Input:
        """Return the row of a query and a document. The longer of the two is truncated first. Raises TooLong."""
        room = self._max - self._pair.special_count
        query_room, document_room = split_room(len(query), len(document), room)
        if truncation == "refuse" and len(query) + len(document) > room:
            raise TooLong(len(query) + len(document) + self._pair.special_count, self._max)
        first, first_dropped = self._fit(query, query_room, truncation)
        second, second_dropped = self._fit(document, document_room, truncation)
        before, between, after = self._pair.parts
        pieces = (before, first, between, second, after)
        ids = tuple(chain.from_iterable(pieces))
        segments = chain.from_iterable(map(repeat, self._pair.segments, map(len, pieces)))
        return Input(ids, tuple(segments), first_dropped + second_dropped)

    def windows(self, ids: Sequence[int], overlap: int) -> list[Input]:
        """Return rows that cover a whole text, each sharing `overlap` tokens with the previous one.

        Raises ValueError.
        """
        before, after = self._single.parts
        return [Input((*before, *piece, *after)) for piece in cut(ids, self._max - self._single.special_count, overlap)]

    def pair_windows(self, query: Sequence[int], document: Sequence[int], overlap: int) -> list[Input]:
        """Return rows that cover a whole document, each with the query as `query_of_windows` truncates it.

        Raises ValueError.
        """
        room = self._max - self._pair.special_count
        query = self.query_of_windows(query)
        return [self.pair(query, piece, "end") for piece in cut(document, room - len(query), overlap)]

    def query_of_windows(self, query: Sequence[int]) -> Sequence[int]:
        """Return the part of a query that is read with each window of a document: at most half of the row."""
        return query[: (self._max - self._pair.special_count) // 2]

    def content(self, vectors: F32) -> F32:
        """Return the token vectors [T, D] of a single text without those of special tokens."""
        before, after = map(len, self._single.parts)
        return vectors[before : len(vectors) - after]

    def content_count(self, row: Input) -> int:
        """Return the number of tokens of a single text's row that are not special."""
        return len(row.ids) - self._single.special_count

    def _fit(self, ids: Sequence[int], room: int, truncation: Truncation) -> tuple[Sequence[int], int]:
        """Return the ids that fit, and the number of truncated ids."""
        dropped = len(ids) - room
        if dropped <= 0:
            return ids, 0
        if truncation == "refuse":
            raise TooLong(len(ids) + self._max - room, self._max)
        return (ids[:room] if truncation == "end" else ids[dropped:]), dropped

    def _probe(self, texts: tuple[str, ...]) -> _Template:
        """Return the template, which is found by encoding short texts with special tokens."""
        encoding = self._tokenizer.encode(*texts, add_special_tokens=True)
        parts: list[list[int]] = [[]]
        segments = [encoding.type_ids[0]]
        position = -1
        for token, sequence, segment in zip(encoding.ids, encoding.sequence_ids, encoding.type_ids, strict=True):
            if sequence is None:
                parts[-1].append(token)
                segments[-1] = segment
            elif sequence != position:
                position = sequence
                parts.append([])
                segments += [segment, segment]
        return _Template(tuple(map(tuple, parts)), tuple(segments))


def _tokens(text: str, encoding: Any) -> list[Token]:
    columns = (encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets)
    return [
        Token(id_, name if is_special else text[start:end], bool(is_special), start, end)
        for id_, name, is_special, (start, end) in zip(*columns, strict=True)
    ]


def cut(ids: Sequence[int], room: int, overlap: int) -> list[Sequence[int]]:
    """Return pieces of at most `room` tokens, each sharing `overlap` with the previous one; one piece if all fit.

    Raises ValueError if the overlap is not 0 to half of `room`.
    """
    if not 0 <= overlap <= room // 2:
        raise ValueError(f"expected an overlap of 0 to {room // 2} tokens, half of what a window holds, got {overlap}")
    starts = range(0, max(len(ids) - overlap, 1), room - overlap)
    return [ids[start : start + room] for start in starts]


def split_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each text fit. The longer one is truncated first, until both are equal.

    This is "longest first" of the tokenizers library, with which cross-encoders are trained. An odd token goes to the
    longer text, and to the second of equals.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
