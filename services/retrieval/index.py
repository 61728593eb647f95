"""The searchable state of a collection: immutable blocks of documents, and which of their rows are alive.

Every write gives a new `View`; a search keeps the one it began with, so it never sees half of a write.
Rows are the store's: they rise, are never used again, and a replaced document gets a new one. So a block never
changes; a document that is deleted or replaced is only no longer alive. Blocks are merged as they grow, the way a
binary counter carries, so that N documents lie in at most about log2(N) blocks and are copied about log2(N) times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from services.core.similarity import F32, F64, Bool, norms, unit
from services.retrieval.coarse import CoarseIndex
from services.retrieval.columns import I64, Column, column
from services.retrieval.documents import Value
from services.retrieval.schema import Metric, Schema


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
    """N documents: rising rows int64[N], their ids, vectors by dense field and columns by metadata field."""

    rows: I64
    ids: Sequence[str]
    vectors: Mapping[str, Vectors]
    columns: Mapping[str, Column]

    @property
    def is_segment(self) -> bool:
        """Whether it has coarse indexes."""
        return any(vectors.coarse is not None for vectors in self.vectors.values())

    def take(self, positions: I64) -> "Block":
        """The block of these documents, without coarse indexes."""
        return Block(
            self.rows[positions],
            [self.ids[position] for position in positions],
            {name: vectors.take(positions) for name, vectors in self.vectors.items()},
            {name: values.take(positions) for name, values in self.columns.items()},
        )

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """The blocks one after the other, without coarse indexes."""
        first = blocks[0]
        return cls(
            np.concatenate([block.rows for block in blocks]),
            [document_id for block in blocks for document_id in block.ids],
            {name: Vectors.joined([block.vectors[name] for block in blocks]) for name in first.vectors},
            {name: type(c).joined([block.columns[name] for block in blocks]) for name, c in first.columns.items()},
        )


def block_of(
    schema: Schema, rows: I64, ids: Sequence[str], dense: Sequence[F32], metadata: Sequence[Mapping[str, Value]]
) -> Block:
    """The block of these documents.

    dense  float32[N, D], one for each dense field of the schema
    """
    fields = zip(schema.dense, dense, strict=True)
    return Block(
        rows,
        ids,
        {field.name: Vectors.of(matrix, field.metric) for field, matrix in fields},
        {f.name: column(f.kind, [values.get(f.name) for values in metadata]) for f in schema.metadata},
    )


@dataclass(frozen=True)
class Part:
    """A block and which of its documents are alive, bool[N]."""

    block: Block
    alive: Bool

    @cached_property
    def count(self) -> int:
        """Documents alive."""
        return int(np.count_nonzero(self.alive))

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
        while result and not result[-1].block.is_segment and result[-1].count < _GROWTH * size:
            size += result[-1].count
            current.insert(0, result.pop())
        if size and (len(current) > 1 or size < _ALIVE_SHARE_MIN * len(part.alive)):
            block = Block.joined([piece.compacted() for piece in current if piece.count])
            current = [Part(block, np.ones(size, dtype=np.bool_))]
        if size:
            result.extend(current)
    return tuple(part for part in result if part.count)
