"""Vectors on their way from the embedding service to the retrieval service: shapes checked, values never decoded.

Fact: all tensors are little-endian bytes, so the part of one text is a slice of the data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Literal

from sluice.common.v1.model_pb2 import ModelRef
from sluice.common.v1.tensor_pb2 import DATA_TYPE_FLOAT32, DATA_TYPE_INT32, MultiVectors, SparseVectors, Tensor
from sluice.errors import BackendFailed

Model = ModelRef
Kind = Literal["dense", "sparse", "multi_vector"]
# Kinds of fields that can be searched: the three kinds of vectors, and text by BM25.
FieldKind = Literal["dense", "sparse", "multi_vector", "text"]


@dataclass(frozen=True)
class EmbeddingBatch:
    """Vectors of some texts, of the requested kinds.

    Raises BackendFailed if a kind is missing or has the wrong shape, or if the usage is that of other texts.
    """

    texts: int
    """Number of texts."""
    kinds: tuple[Kind, ...]
    """Kinds that are present."""
    model: Model
    """Model that produced the vectors."""
    dense: Tensor
    """FLOAT32 [texts, dimensions]."""
    sparse: SparseVectors
    """Weighted terms of each text."""
    multi_vector: MultiVectors
    """FLOAT32 [tokens of all texts, dimensions], one vector per token."""
    dropped: tuple[int, ...] = ()
    """Number of tokens of each text that the model did not read; empty if the service did not report it."""

    def __post_init__(self) -> None:
        if len(self.dropped) not in {0, self.texts}:
            raise BackendFailed(f"embedding: expected the usage of {self.texts} texts, got {len(self.dropped)}")
        checks = {"dense": self._has_dense, "sparse": self._has_sparse, "multi_vector": self._has_multi_vector}
        for kind in self.kinds:
            if not checks[kind]():
                raise BackendFailed(
                    f"embedding: expected {kind} vectors of {self.texts} texts, got none or another shape"
                )

    def dimensions(self, kind: Kind) -> int:
        """Return the length of a vector of this kind; 0 for sparse vectors."""
        if kind == "sparse":
            return 0
        return self.dense.shape[1] if kind == "dense" else self.multi_vector.tokens.shape[1]

    def part(self, start: int, end: int) -> "EmbeddingBatch":
        """Return the vectors of the texts `start` to `end`, without `end`."""
        dense, sparse, multi_vector = Tensor(), SparseVectors(), MultiVectors()
        if "dense" in self.kinds:
            columns = self.dense.shape[1]
            dense = _slice(self.dense, [end - start, columns], start * columns, end * columns)
        if "sparse" in self.kinds:
            sparse = _sparse_part(self.sparse, start, end)
        if "multi_vector" in self.kinds:
            multi_vector = _multi_vector_part(self.multi_vector, start, end)
        dropped = self.dropped[start:end]
        return EmbeddingBatch(end - start, self.kinds, self.model, dense, sparse, multi_vector, dropped)

    def _has_dense(self) -> bool:
        return _has_shape(self.dense, DATA_TYPE_FLOAT32, axes=2) and self.dense.shape[0] == self.texts

    def _has_sparse(self) -> bool:
        terms = [sum(self.sparse.term_counts)]
        return (
            len(self.sparse.term_counts) == self.texts
            and _has_shape(self.sparse.indices, DATA_TYPE_INT32, axes=1)
            and _has_shape(self.sparse.weights, DATA_TYPE_FLOAT32, axes=1)
            and list(self.sparse.indices.shape) == list(self.sparse.weights.shape) == terms
        )

    def _has_multi_vector(self) -> bool:
        counts, tokens = self.multi_vector.token_counts, self.multi_vector.tokens
        has_shape = _has_shape(tokens, DATA_TYPE_FLOAT32, axes=2)
        return len(counts) == self.texts and has_shape and tokens.shape[0] == sum(counts)


@dataclass(frozen=True)
class FieldVectors:
    """Vectors for one field of a collection, in the order of the documents."""

    field: str
    kind: Kind
    batch: EmbeddingBatch

    def part(self, start: int, end: int) -> "FieldVectors":
        """Return the vectors of the documents `start` to `end`, without `end`."""
        return FieldVectors(self.field, self.kind, self.batch.part(start, end))


def dense_rows(vectors: Tensor) -> list[Tensor]:
    """Return the vector of each text: FLOAT32 [dimensions]."""
    rows, columns = vectors.shape
    return [_slice(vectors, [columns], start, start + columns) for start in range(0, rows * columns, columns)]


def sparse_rows(vectors: SparseVectors) -> list[SparseVectors]:
    """Return the weighted terms of each text."""
    return [
        SparseVectors(
            indices=_slice(vectors.indices, [end - start], start, end),
            weights=_slice(vectors.weights, [end - start], start, end),
            term_counts=[end - start],
        )
        for start, end in _spans(vectors.term_counts)
    ]


def multi_vector_rows(vectors: MultiVectors) -> list[Tensor]:
    """Return the token vectors of each text: FLOAT32 [tokens, dimensions]."""
    columns = vectors.tokens.shape[1]
    return [
        _slice(vectors.tokens, [end - start, columns], start * columns, end * columns)
        for start, end in _spans(vectors.token_counts)
    ]


def _sparse_part(vectors: SparseVectors, start: int, end: int) -> SparseVectors:
    counts = vectors.term_counts[start:end]
    first, count = sum(vectors.term_counts[:start]), sum(counts)
    return SparseVectors(
        indices=_slice(vectors.indices, [count], first, first + count),
        weights=_slice(vectors.weights, [count], first, first + count),
        term_counts=counts,
    )


def _multi_vector_part(vectors: MultiVectors, start: int, end: int) -> MultiVectors:
    columns, counts = vectors.tokens.shape[1], vectors.token_counts[start:end]
    first, count = sum(vectors.token_counts[:start]), sum(counts)
    tokens = _slice(vectors.tokens, [count, columns], first * columns, (first + count) * columns)
    return MultiVectors(tokens=tokens, token_counts=counts)


def _spans(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return the start and end of the elements of each text."""
    ends = list(accumulate(counts))
    return zip([0, *ends], ends, strict=False)


def _slice(tensor: Tensor, shape: Sequence[int], start: int, end: int) -> Tensor:
    """Return the elements `start` to `end` of a tensor of four-byte elements, in this shape."""
    return Tensor(data_type=tensor.data_type, shape=shape, data=tensor.data[4 * start : 4 * end])


def _has_shape(tensor: Tensor, data_type: int, *, axes: int) -> bool:
    """Return whether a tensor of four-byte elements has this type, this number of axes, and data for its shape."""
    return tensor.data_type == data_type and len(tensor.shape) == axes and len(tensor.data) == 4 * prod(tensor.shape)
