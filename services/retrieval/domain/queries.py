"""Queries of fields as plain data, and the candidates that an engine returns for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.core.arrays import F32, I64
from services.retrieval.domain.documents import Document
from services.retrieval.domain.schema import DenseField, MultiVectorField, SparseField, TextField

IsOver = Callable[[], bool]
"""Whether the time for a search is over. May raise if nobody waits for the result."""


@dataclass(frozen=True)
class DenseQuery:
    """A vector, float32[D], to compare with a dense field."""

    field: DenseField
    vector: F32
    depth: int
    is_exact: bool = False
    oversampling: float | None = None
    """Coarse candidates per result; None uses the default of the field's coarse type."""
    feedback: tuple[tuple[str, float], ...] = ()
    """Ids and weights of documents for relevance feedback."""

    @property
    def is_approximate(self) -> bool:
        """Whether an exact search could find other documents."""
        return not self.is_exact


@dataclass(frozen=True)
class TextQuery:
    """Words to rank by BM25: keys, int64[K], in ascending order, and how often the query contains each, int64[K]."""

    field: TextField
    keys: I64
    counts: I64
    depth: int


@dataclass(frozen=True)
class SparseQuery:
    """Weighted terms to compare with a sparse field by inner product: int64[K] keys in ascending order, float32[K]."""

    field: SparseField
    keys: I64
    weights: F32
    depth: int


@dataclass(frozen=True)
class MultiVectorQuery:
    """Token vectors, float32[Q, D], to compare with a multi-vector field. Documents without tokens are not found."""

    field: MultiVectorField
    tokens: F32
    depth: int
    is_exact: bool = False
    oversampling: float | None = None
    """Candidates of the encoding per result; None uses the default."""

    @property
    def is_approximate(self) -> bool:
        """Whether an exact search could find other documents."""
        return self.field.encoding is not None and not self.is_exact


Query = DenseQuery | TextQuery | SparseQuery | MultiVectorQuery


@dataclass(frozen=True)
class CascadeQuery:
    """A query that ranks only the documents that earlier queries find."""

    among: tuple[Query, ...]
    then: Query

    @property
    def queries(self) -> tuple[Query, ...]:
        """All queries of the cascade, the last one at the end."""
        return (*self.among, self.then)


@dataclass(frozen=True)
class Candidates:
    """The ids that a query found and their scores, float32[K], best first. Equal scores are ordered by id.

    coverage  share of the matching documents that were examined; 1 unless the time was over early
    """

    ids: Sequence[str]
    scores: F32
    coverage: float


@dataclass(frozen=True)
class Found:
    """The candidates of each query, the documents among them in order of id, and the version of the collection."""

    candidates: Sequence[Candidates]
    documents: Sequence[Document]
    version: int
