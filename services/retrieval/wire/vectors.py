"""Columns of vectors, from protos. Checks them against the schema."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from sluice.common.v1 import tensor_pb2 as tns
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import PreconditionFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.core.arrays import F32, I64
from services.core.similarity import norms
from services.retrieval.domain.schema import DenseField, Metric, MultiVectorField, Schema, SparseField
from services.retrieval.domain.vectors import Terms, TokenVectors
from services.retrieval.wire.schema import unique
from services.rpc.tensor import checked
from services.rpc.validation import Violations

# Two vectors of this length have a product of 1e30 and a squared distance of 4e30. The limit of float32 is 3.4e38.
_LENGTH_MAX: Final = 1e15
# Largest number of float16.
_HALF_MAX: Final = 65_504.0
_TERMS_MAX: Final = 65_536
_TOKENS_MAX: Final = 8192

BoundField = DenseField | SparseField | MultiVectorField
Column = pb.DenseColumn | pb.SparseColumn | pb.MultiVectorColumn
F = TypeVar("F", bound=BoundField)
C = TypeVar("C", bound=Column)
V = TypeVar("V")

_HALF_OR_FLOAT: Final = (tns.DATA_TYPE_FLOAT32, tns.DATA_TYPE_FLOAT16)


class VectorReader:
    """Reads the columns of one upsert, and notes violations."""

    def __init__(self, request: pb.UpsertRequest, violations: Violations) -> None:
        self._request = request
        self._count = len(request.documents)
        self._violations = violations
        # Raised only if the request has no violations.
        self.mismatches: list[PreconditionFailed] = []

    def dense(self, schema: Schema) -> list[F32]:
        """Return the vectors, float32[N, D], of each dense field."""
        return self._columns("dense", self._request.dense, schema.dense, self._dense)

    def sparse(self, schema: Schema) -> list[Terms]:
        """Return the terms of each sparse field."""
        return self._columns("sparse", self._request.sparse, schema.sparse, self._sparse)

    def multi_vector(self, schema: Schema) -> list[TokenVectors]:
        """Return the token vectors of each multi-vector field."""
        return self._columns("multi_vectors", self._request.multi_vectors, schema.multi_vector, self._multi_vector)

    def _columns(
        self, name: str, given: Sequence[C], fields: Sequence[F], read: Callable[[str, C, F], V | None]
    ) -> list[V]:
        """Read the column of each field. The result is incomplete if there are violations."""
        columns = {column.field: (f"{name}[{i}]", column) for i, column in enumerate(given)}
        known = {field.name: field for field in fields}
        unique(((f"{name}[{i}].field", column.field) for i, column in enumerate(given)), self._violations)
        for i, column in enumerate(given):
            if column.field not in known:
                none = f"no column, because the schema has no {name} field"
                expected = f"one of {', '.join(sorted(known))}" if known else none
                self._violations.add(f"{name}[{i}].field", f"expected {expected}, got {column.field[:64]!r}")
        for missing in [field for field in known if field not in columns]:
            self._violations.add(name, f"expected a column for every {name} field, got none for {missing!r}")
        found = [
            (field, *columns[field.name], read(f"{columns[field.name][0]}.vectors", columns[field.name][1], field))
            for field in fields
            if field.name in columns
        ]
        for field, path, column, _ in found:
            if field.model_digest and column.model_digest != field.model_digest:
                self.mismatches.append(mismatch(path, field, column.model_digest))
        return [value for *_, value in found if value is not None]

    def _dense(self, path: str, column: pb.DenseColumn, field: DenseField) -> F32 | None:
        shape = (self._count, field.dimensions)
        matrix = checked(column.vectors, field=path, shape=shape, violations=self._violations)
        if matrix is not None:
            check_lengths(path, matrix, field.metric, self._violations)
        return matrix

    def _sparse(self, path: str, column: pb.SparseColumn, field: SparseField) -> Terms | None:
        counts = self._counts(path, column.vectors.term_counts, _TERMS_MAX, "terms")
        terms = None if counts is None else read_terms(path, column.vectors, counts, self._violations)
        if terms is not None and not (terms.values > 0).all():
            self._violations.add(f"{path}.weights", f"expected weights above 0, got {terms.values.min():g}")
        return terms

    def _multi_vector(self, path: str, column: pb.MultiVectorColumn, field: MultiVectorField) -> TokenVectors | None:
        counts = self._counts(path, column.vectors.token_counts, _TOKENS_MAX, "tokens")
        if counts is None:
            return None
        shape = (int(counts.sum()), field.dimensions)
        vectors = read_tokens(f"{path}.tokens", column.vectors.tokens, shape, self._violations)
        return None if vectors is None else TokenVectors.quantize(vectors, counts, field.stored)

    def _counts(self, path: str, given: Sequence[int], high: int, what: str) -> I64 | None:
        """Return the counts, int64[N]; None, with a violation noted, if they are invalid."""
        counts = np.array(given, dtype=np.int64)
        path = f"{path}.{what.removesuffix('s')}_counts"
        if len(counts) != self._count:
            description = f"expected one for each of the {self._count} documents, got {len(counts)}"
            self._violations.add(path, description, expected=self._count, given=len(counts))
            return None
        for i in np.flatnonzero((counts < 0) | (counts > high))[:1]:
            self._violations.count(f"{path}[{i}]", int(counts[i]), low=0, high=high, what=what)
            return None
        return counts


def mismatch(path: str, field: BoundField, given: str) -> PreconditionFailed:
    """Return the error for a vector of a model other than the field's."""
    expected = f"expected vectors of model {field.model_digest}, to which field {field.name!r} is bound"
    return PreconditionFailed(
        f"{path}: {expected}, got {given or 'no model'}",
        reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
        metadata={"field": field.name, "expected_digest": field.model_digest, "given_digest": given},
    )


def check_lengths(path: str, vectors: F32, metric: Metric, violations: Violations) -> None:
    """Note vectors, float32[N, D], that are too long to compare, and zero vectors with the cosine metric."""
    lengths = norms(vectors)
    if (lengths > _LENGTH_MAX).any():
        row = int(np.argmax(lengths))
        violations.add(path, f"expected vectors of length up to {_LENGTH_MAX:g}, got {lengths[row]:g} in row {row}")
    if metric is Metric.COSINE and (lengths == 0).any():
        violations.add(path, f"expected vectors that are not zero, got only zeros in row {int(np.argmin(lengths))}")


def read_terms(path: str, given: tns.SparseVectors, counts: I64, violations: Violations) -> Terms | None:
    """Return the terms of texts with `counts` terms; None, with a violation noted, if they are invalid."""
    shape = (int(counts.sum()),)
    types = (tns.DATA_TYPE_INT32,)
    keys = checked(given.indices, field=f"{path}.indices", shape=shape, violations=violations, data_types=types)
    weights = checked(given.weights, field=f"{path}.weights", shape=shape, violations=violations)
    if keys is None or weights is None:
        return None
    if len(weights) and float(np.abs(weights).max()) > _LENGTH_MAX:
        violations.add(f"{path}.weights", f"expected weights up to {_LENGTH_MAX:g}, got {np.abs(weights).max():g}")
    owners = np.repeat(np.arange(len(counts)), counts)
    falls = (np.diff(keys) <= 0) & (np.diff(owners) == 0)
    if falls.any() or (keys < 0).any():
        violations.add(f"{path}.indices", "expected non-negative indices in ascending order within a text, got others")
        return None
    return Terms(keys.astype(np.int64), weights, counts)


def read_tokens(path: str, given: tns.Tensor, shape: tuple[int, int], violations: Violations) -> F32 | None:
    """Return the token vectors as float32; None, with a violation noted, if they are invalid."""
    found = checked(given, field=path, shape=shape, violations=violations, data_types=_HALF_OR_FLOAT)
    if found is None:
        return None
    vectors: F32 = found.astype(np.float32)
    largest = float(np.abs(vectors).max(initial=0.0))
    if largest > _HALF_MAX:
        violations.add(path, f"expected numbers within half precision, up to {_HALF_MAX:,.0f}, got {largest:g}")
        return None
    return vectors
