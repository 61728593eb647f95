"""The searchable state of a collection: immutable blocks of documents, and which of their documents are alive.

Every write makes a new `View`. A search keeps the view that it started with, so it never sees half of a write. Rows
are those of the store: they ascend and are never reused, and a replaced document gets a new one. So a block never
changes; a document that is deleted or replaced is only no longer alive. Blocks are merged as they grow, like the
carries of a binary counter: N documents are in at most about log2(N) blocks and are copied about log2(N) times.
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
from services.retrieval.domain.vectors import Terms
from services.retrieval.embedded.index.ann import AnnIndex
from services.retrieval.embedded.index.columns import Column, column_of
from services.retrieval.embedded.index.multi_vectors import MultiVectors
from services.retrieval.embedded.index.postings import Postings


@dataclass(frozen=True)
class DenseVectors:
    """The vectors of a dense field, float32[N, D], of unit length for cosine, and their lengths, float64[N].

    In a segment, `ann` is their approximate index.
    """

    matrix: F32
    lengths: F64
    ann: AnnIndex | None = None

    @classmethod
    def of(cls, matrix: F32, metric: Metric) -> "DenseVectors":
        """Prepare vectors for search."""
        prepared = unit(matrix) if metric is Metric.COSINE else matrix
        return cls(prepared, norms(prepared))

    @cached_property
    def longest(self) -> float:
        """Length of the longest vector."""
        return float(self.lengths.max(initial=0.0))

    def take(self, positions: I64) -> "DenseVectors":
        """Return the vectors of the documents at these positions, without the index."""
        return DenseVectors(self.matrix[positions], self.lengths[positions])

    @classmethod
    def concatenate(cls, parts: Sequence["DenseVectors"]) -> "DenseVectors":
        """Join the vectors of several values in order, without their indexes."""
        return cls(np.concatenate([part.matrix for part in parts]), np.concatenate([part.lengths for part in parts]))


@dataclass(frozen=True)
class Block:
    """N documents: their rows, int64[N] in ascending order, their ids, and their fields by name.

    In a segment, dense vectors and encodings have approximate indexes.
    """

    rows: I64
    ids: Sequence[str]
    columns: Mapping[str, Column]
    vectors: Mapping[str, DenseVectors]
    postings: Mapping[str, Postings]
    """The inverted lists of text fields, whose sums are word counts, and of sparse fields."""
    multi_vectors: Mapping[str, MultiVectors]
    is_segment: bool = False

    def take(self, positions: I64) -> "Block":
        """Return the block of the documents at these positions, without approximate indexes."""
        return Block(
            self.rows[positions],
            [self.ids[position] for position in positions],
            {name: part.take(positions) for name, part in self.columns.items()},
            {name: part.take(positions) for name, part in self.vectors.items()},
            {name: part.take(positions) for name, part in self.postings.items()},
            {name: part.take(positions) for name, part in self.multi_vectors.items()},
        )

    @classmethod
    def concatenate(cls, blocks: Sequence["Block"]) -> "Block":
        """Join several blocks in order, without approximate indexes."""
        first = blocks[0]
        return cls(
            np.concatenate([block.rows for block in blocks]),
            [document_id for block in blocks for document_id in block.ids],
            {name: type(c).concatenate([block.columns[name] for block in blocks]) for name, c in first.columns.items()},
            {name: DenseVectors.concatenate([block.vectors[name] for block in blocks]) for name in first.vectors},
            {name: Postings.concatenate([block.postings[name] for block in blocks]) for name in first.postings},
            {
                name: MultiVectors.concatenate([block.multi_vectors[name] for block in blocks])
                for name in first.multi_vectors
            },
        )


def block_of(schema: Schema, rows: I64, batch: Batch) -> Block:
    """Build the block of a batch of documents."""
    documents = batch.documents
    texts = {f.name: Postings.of(terms_of(f, documents)) for f in schema.text}
    terms = {f.name: Postings.of(given) for f, given in zip(schema.sparse, batch.sparse, strict=True)}
    return Block(
        rows,
        [document.document_id for document in documents],
        {f.name: column_of(f.kind, [document.metadata.get(f.name) for document in documents]) for f in schema.metadata},
        {f.name: DenseVectors.of(matrix, f.metric) for f, matrix in zip(schema.dense, batch.dense, strict=True)},
        texts | terms,
        {f.name: MultiVectors(tokens) for f, tokens in zip(schema.multi_vector, batch.multi_vector, strict=True)},
    )


def terms_of(field: TextField, documents: Sequence[Document]) -> Terms:
    """Return the terms of each document's title and text, with their frequencies."""
    analysis = analyzer(field.language, keeps_stop_words=field.keeps_stop_words, version=field.analysis)
    counted = [np.unique(analysis.keys(f"{one.title}\n{one.text}"), return_counts=True) for one in documents]
    return Terms.of([(keys, counts.astype(np.float32)) for keys, counts in counted])


@dataclass(frozen=True)
class LiveBlock:
    """A block, and which of its documents are alive, bool[N]."""

    block: Block
    alive: Bool
    _sums: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def count(self) -> int:
        """Number of live documents."""
        return int(np.count_nonzero(self.alive))

    def count_within(self, mask: Bool) -> int:
        """Count the documents in a mask. The count of `alive` itself is cached."""
        return self.count if mask is self.alive else int(np.count_nonzero(mask))

    def sum_of(self, field: str) -> float:
        """Return the word count of the live documents in a text field, or the sum of their weights in a sparse one."""
        if field not in self._sums:
            self._sums[field] = float(self.block.postings[field].sums[self.alive].sum(dtype=np.float64))
        return self._sums[field]

    def without(self, removed: I64) -> "LiveBlock":
        """Return the part after these rows have died. Rows of other blocks are ignored."""
        positions = np.searchsorted(self.block.rows, removed)
        positions = positions[positions < len(self.alive)]
        positions = positions[np.isin(self.block.rows[positions], removed)]
        if not len(positions):
            return self
        alive = self.alive.copy()
        alive[positions] = False
        return LiveBlock(self.block, alive)

    def compact(self) -> Block:
        """Return the block of the live documents."""
        return self.block if self.alive.all() else self.block.take(np.flatnonzero(self.alive))


@dataclass(frozen=True)
class View:
    """One consistent state of a collection, after write number `version`."""

    version: int
    parts: tuple[LiveBlock, ...] = ()

    @cached_property
    def document_count(self) -> int:
        """Number of documents in the collection."""
        return sum(part.count for part in self.parts)

    @cached_property
    def indexed_count(self) -> int:
        """Number of documents in approximate indexes."""
        return sum(part.count for part in self.parts if part.block.is_segment)

    @cached_property
    def dead_count(self) -> int:
        """Number of deleted documents that still take space."""
        return sum(len(part.alive) - part.count for part in self.parts)

    def apply(self, version: int, removed: I64, added: Block | None = None) -> "View":
        """Return the state after a write that removed these rows and added these documents."""
        parts = [part.without(removed) for part in self.parts]
        if added is not None:
            parts.append(LiveBlock(added, np.ones(len(added.rows), dtype=np.bool_)))
        return View(version, merge_small(parts))


# A part with a smaller share of live documents is rewritten.
_ALIVE_SHARE_MIN: Final = 0.5
# A part is merged with the next newer one unless it is at least this many times as large.
_GROWTH: Final = 2
# Larger parts wait for the segment builder, because merging them would delay a write by more than about 100 ms.
_MERGED_MAX: Final = 8192


def merge_small(parts: Sequence[LiveBlock]) -> tuple[LiveBlock, ...]:
    """Merge parts that are not much larger than the next newer one, and rewrite parts that are mostly dead.

    A segment stays as it is; the segment builder replaces it.
    """
    result: list[LiveBlock] = []
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
            block = Block.concatenate([one.compact() for one in current if one.count])
            current = [LiveBlock(block, np.ones(size, dtype=np.bool_))]
        if size:
            result.extend(current)
    return tuple(part for part in result if part.count)


def _is_small(part: LiveBlock) -> bool:
    return not part.block.is_segment and part.count <= _MERGED_MAX
