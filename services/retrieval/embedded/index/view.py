"""The searchable state of a collection: immutable blocks of documents, and which of their rows are alive.

Every write gives a new `View`; a search keeps the one it began with, so it never sees half of a write.
Rows are the store's: they rise, are never used again, and a replaced document gets a new one. So a block never
changes; a document that is deleted or replaced is only no longer alive. Blocks are merged as they grow, the way a
binary counter carries, so that N documents lie in at most about log2(N) blocks and are copied about log2(N) times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from services.core.arrays import F32, F64, I64, Bool
from services.core.similarity import norms, unit
from services.retrieval.domain.analysis import analyzer
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.schema import Metric, Schema, TextField
from services.retrieval.embedded.index.ann import CoarseIndex
from services.retrieval.embedded.index.columns import Column, column
from services.retrieval.embedded.index.multi_vectors import Tokens
from services.retrieval.embedded.index.postings import Postings, Terms


@dataclass(frozen=True)
class Vectors:
    """The vectors of a dense field: float32[N, D], unit length for cosine; their lengths; in a segment, their index."""

    matrix: F32
    lengths: F64
    coarse: CoarseIndex | None = None

    @classmethod
    def of(cls, matrix: F32, metric: Metric) -> "Vectors":
        """The vectors as they are searched."""
        searched = unit(matrix) if metric is Metric.COSINE else matrix
        return cls(searched, norms(searched))

    @cached_property
    def longest(self) -> float:
        """The length of the longest vector."""
        return float(self.lengths.max(initial=0.0))

    def take(self, positions: I64) -> "Vectors":
        """The vectors of these documents."""
        return Vectors(self.matrix[positions], self.lengths[positions])

    @classmethod
    def joined(cls, several: Sequence["Vectors"]) -> "Vectors":
        """The vectors one after the other."""
        return cls(np.concatenate([v.matrix for v in several]), np.concatenate([v.lengths for v in several]))


@dataclass(frozen=True)
class Block:
    """N documents: rising rows int64[N], their ids, and their fields by name. A segment has coarse indexes."""

    rows: I64
    ids: Sequence[str]
    columns: Mapping[str, Column]
    vectors: Mapping[str, Vectors]
    postings: Mapping[str, Postings]
    """Of text fields, with the words of a document as sums; and of sparse fields."""
    tokens: Mapping[str, Tokens]
    is_segment: bool = False

    def take(self, positions: I64) -> "Block":
        """The block of these documents, without coarse indexes."""
        return Block(
            self.rows[positions],
            [self.ids[position] for position in positions],
            {name: part.take(positions) for name, part in self.columns.items()},
            {name: part.take(positions) for name, part in self.vectors.items()},
            {name: part.take(positions) for name, part in self.postings.items()},
            {name: part.take(positions) for name, part in self.tokens.items()},
        )

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """The blocks one after the other, without coarse indexes."""
        first = blocks[0]
        return cls(
            np.concatenate([block.rows for block in blocks]),
            [document_id for block in blocks for document_id in block.ids],
            {name: type(c).joined([block.columns[name] for block in blocks]) for name, c in first.columns.items()},
            {name: Vectors.joined([block.vectors[name] for block in blocks]) for name in first.vectors},
            {name: Postings.joined([block.postings[name] for block in blocks]) for name in first.postings},
            {name: Tokens.joined([block.tokens[name] for block in blocks]) for name in first.tokens},
        )


def block_of(schema: Schema, rows: I64, batch: Batch) -> Block:
    """The block of these documents."""
    documents = batch.documents
    texts = {f.name: Postings.of(terms_of(f, documents)) for f in schema.text}
    terms = {f.name: Postings.of(given) for f, given in zip(schema.sparse, batch.sparse, strict=True)}
    return Block(
        rows,
        [document.document_id for document in documents],
        {f.name: column(f.kind, [document.metadata.get(f.name) for document in documents]) for f in schema.metadata},
        {f.name: Vectors.of(matrix, f.metric) for f, matrix in zip(schema.dense, batch.dense, strict=True)},
        texts | terms,
        {f.name: tokens for f, tokens in zip(schema.multi_vector, batch.multi_vector, strict=True)},
    )


def terms_of(field: TextField, documents: Sequence[Document]) -> Terms:
    """The terms of each document's title and text, with how often they are there."""
    analysis = analyzer(field.language, keeps_stop_words=field.keeps_stop_words, version=field.analysis)
    counted = [np.unique(analysis.keys(f"{one.title}\n{one.text}"), return_counts=True) for one in documents]
    return Terms.of([(keys, counts.astype(np.float32)) for keys, counts in counted])


@dataclass(frozen=True)
class Part:
    """A block and which of its documents are alive, bool[N]."""

    block: Block
    alive: Bool
    _words: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def count(self) -> int:
        """Documents alive."""
        return int(np.count_nonzero(self.alive))

    def passing(self, mask: Bool) -> int:
        """How many documents a mask lets through; known already when it is `alive`."""
        return self.count if mask is self.alive else int(np.count_nonzero(mask))

    def words(self, field: str) -> float:
        """Words of those alive in a text field, or the weights of a sparse one."""
        if field not in self._words:
            self._words[field] = float(self.block.postings[field].sums[self.alive].sum(dtype=np.float64))
        return self._words[field]

    def without(self, removed: I64) -> "Part":
        """The part after these rows have died; rows that are elsewhere do not matter."""
        positions = np.searchsorted(self.block.rows, removed)
        positions = positions[positions < len(self.alive)]
        positions = positions[np.isin(self.block.rows[positions], removed)]
        if not len(positions):
            return self
        alive = self.alive.copy()
        alive[positions] = False
        return Part(self.block, alive)

    def compacted(self) -> Block:
        """The block of those alive."""
        return self.block if self.alive.all() else self.block.take(np.flatnonzero(self.alive))


@dataclass(frozen=True)
class View:
    """One consistent state of a collection: that after write number `version`."""

    version: int
    parts: tuple[Part, ...] = ()

    @cached_property
    def document_count(self) -> int:
        """Documents in the collection."""
        return sum(part.count for part in self.parts)

    @cached_property
    def indexed_count(self) -> int:
        """Documents that coarse indexes cover."""
        return sum(part.count for part in self.parts if part.block.is_segment)

    @cached_property
    def dead_count(self) -> int:
        """Documents that are gone and still take place."""
        return sum(len(part.alive) - part.count for part in self.parts)

    def after(self, version: int, removed: I64, added: Block | None = None) -> "View":
        """The state after a write that removed these rows and added these documents."""
        parts = [part.without(removed) for part in self.parts]
        if added is not None:
            parts.append(Part(added, np.ones(len(added.rows), dtype=np.bool_)))
        return View(version, merged(parts))


# A part is rewritten when fewer than this share of its documents are alive.
_ALIVE_SHARE_MIN: Final = 0.5
# A part is joined with its younger neighbour when it is not at least this many times as large.
_GROWTH: Final = 2
# Larger parts wait for the builder: joining them would keep a write waiting for longer than some 100 ms.
_JOINED_MAX: Final = 8192


def merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, with those joined that grew to the size of their elder neighbour, and mostly dead ones cleaned.

    A segment stays as it is: the builder makes it anew.
    """
    result: list[Part] = []
    for part in parts:
        if part.block.is_segment:
            result.append(part)
            continue
        current = [part]
        size = part.count
        while result and _is_small(result[-1]) and result[-1].count < _GROWTH * size:
            size += result[-1].count
            current.insert(0, result.pop())
        if size and (len(current) > 1 or size < _ALIVE_SHARE_MIN * len(part.alive)):
            block = Block.joined([piece.compacted() for piece in current if piece.count])
            current = [Part(block, np.ones(size, dtype=np.bool_))]
        if size:
            result.extend(current)
    return tuple(part for part in result if part.count)


def _is_small(part: Part) -> bool:
    return not part.block.is_segment and part.count <= _JOINED_MAX
