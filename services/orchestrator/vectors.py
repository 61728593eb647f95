"""Vectors on their way from the embedding to the retrieval service: checked, cut by text, and never opened.

Facts: all are little-endian bytes, so a text's part of a tensor is a slice of its data.
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
# Kinds of fields that documents are found by: those of vectors, and words.
FieldKind = Literal["dense", "sparse", "multi_vector", "text"]


@dataclass(frozen=True)
class Embedded:
    """Vectors of some texts, of the kinds that were asked for.

    Raises BackendFailed when a kind is not there, or does not have the shape it should.
    """

    texts: int
    """How many texts."""
    kinds: tuple[Kind, ...]
    """Which are there."""
    model: Model
    """The model that made them."""
    dense: Tensor
    """FLOAT32 [texts, dimensions]."""
    sparse: SparseVectors
    """Weighted terms."""
    multi_vector: MultiVectors
    """FLOAT32, a vector a token."""

    def __post_init__(self) -> None:
        checks = {"dense": self._dense_fits, "sparse": self._sparse_fits, "multi_vector": self._multi_vector_fits}
        for kind in self.kinds:
            if not checks[kind]():
                raise BackendFailed(f"embedding: expected {kind} vectors of {self.texts} texts, got none or others")

    def dimensions(self, kind: Kind) -> int:
        """Return how many numbers a vector of this kind has; 0 for weighted terms."""
        if kind == "sparse":
            return 0
        return self.dense.shape[1] if kind == "dense" else self.multi_vector.tokens.shape[1]

    def part(self, start: int, end: int) -> "Embedded":
        """Return the vectors of the texts from `start` up to, and without, `end`."""
        dense, sparse, multi_vector = Tensor(), SparseVectors(), MultiVectors()
        if "dense" in self.kinds:
            columns = self.dense.shape[1]
            dense = _part(self.dense, [end - start, columns], start * columns, end * columns)
        if "sparse" in self.kinds:
            sparse = _terms(self.sparse, start, end)
        if "multi_vector" in self.kinds:
            multi_vector = _tokens(self.multi_vector, start, end)
        return Embedded(end - start, self.kinds, self.model, dense, sparse, multi_vector)

    def _dense_fits(self) -> bool:
        return _is_whole(self.dense, DATA_TYPE_FLOAT32, axes=2) and self.dense.shape[0] == self.texts

    def _sparse_fits(self) -> bool:
        terms = [sum(self.sparse.term_counts)]
        return (
            len(self.sparse.term_counts) == self.texts
            and _is_whole(self.sparse.indices, DATA_TYPE_INT32, axes=1)
            and _is_whole(self.sparse.weights, DATA_TYPE_FLOAT32, axes=1)
            and list(self.sparse.indices.shape) == list(self.sparse.weights.shape) == terms
        )

    def _multi_vector_fits(self) -> bool:
        counts, tokens = self.multi_vector.token_counts, self.multi_vector.tokens
        is_whole = _is_whole(tokens, DATA_TYPE_FLOAT32, axes=2)
        return len(counts) == self.texts and is_whole and tokens.shape[0] == sum(counts)


def dense_rows(vectors: Tensor) -> list[Tensor]:
    """Each text's vector: FLOAT32 [dimensions]."""
    rows, columns = vectors.shape
    return [_part(vectors, [columns], start, start + columns) for start in range(0, rows * columns, columns)]


def sparse_rows(vectors: SparseVectors) -> list[SparseVectors]:
    """Each text's terms."""
    return [
        SparseVectors(
            indices=_part(vectors.indices, [end - start], start, end),
            weights=_part(vectors.weights, [end - start], start, end),
            term_counts=[end - start],
        )
        for start, end in _spans(vectors.term_counts)
    ]


def multi_vector_rows(vectors: MultiVectors) -> list[Tensor]:
    """Each text's token vectors: FLOAT32 [tokens, dimensions]."""
    columns = vectors.tokens.shape[1]
    return [
        _part(vectors.tokens, [end - start, columns], start * columns, end * columns)
        for start, end in _spans(vectors.token_counts)
    ]


def _terms(vectors: SparseVectors, start: int, end: int) -> SparseVectors:
    """Return the terms of the texts from `start` up to `end`."""
    counts = vectors.term_counts[start:end]
    first, count = sum(vectors.term_counts[:start]), sum(counts)
    return SparseVectors(
        indices=_part(vectors.indices, [count], first, first + count),
        weights=_part(vectors.weights, [count], first, first + count),
        term_counts=counts,
    )


def _tokens(vectors: MultiVectors, start: int, end: int) -> MultiVectors:
    """Return the token vectors of the texts from `start` up to `end`."""
    columns, counts = vectors.tokens.shape[1], vectors.token_counts[start:end]
    first, count = sum(vectors.token_counts[:start]), sum(counts)
    tokens = _part(vectors.tokens, [count, columns], first * columns, (first + count) * columns)
    return MultiVectors(tokens=tokens, token_counts=counts)


def _spans(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and end of each text's elements."""
    ends = list(accumulate(counts))
    return zip([0, *ends], ends, strict=False)


def _part(tensor: Tensor, shape: Sequence[int], start: int, end: int) -> Tensor:
    """Elements of a tensor of four-byte elements, as a tensor of this shape."""
    return Tensor(data_type=tensor.data_type, shape=shape, data=tensor.data[4 * start : 4 * end])


def _is_whole(tensor: Tensor, data_type: int, *, axes: int) -> bool:
    """Whether a tensor of four-byte elements has this type, so many axes, and the data its shape says."""
    return tensor.data_type == data_type and len(tensor.shape) == axes and len(tensor.data) == 4 * prod(tensor.shape)
