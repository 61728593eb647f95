"""Queries of fields, from protos."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sluice.errors import PreconditionFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.domain.analysis import analyzer
from services.retrieval.domain.queries import CascadeQuery, DenseQuery, MultiVectorQuery, Query, SparseQuery, TextQuery
from services.retrieval.domain.schema import DenseField, MultiVectorField, Schema, SearchField, SparseField, TextField
from services.retrieval.wire.vectors import check_lengths, mismatch, read_terms, read_tokens
from services.rpc.tensor import checked
from services.rpc.validation import Violations

_TEXT_BYTES_MAX: Final = 8192
_TERMS_MAX: Final = 65_536
_TOKENS_MAX: Final = 1024
_AMONG_MAX: Final = 8
_OVERSAMPLING_MAX: Final = 100.0
_FEEDBACK_MAX: Final = 64
_WEIGHT_MAX: Final = 100
# The part of the message that holds a query of each kind of field.
_PART: Final = {DenseField: "dense", TextField: "text", SparseField: "sparse", MultiVectorField: "multi_vector"}


class QueryReader:
    """Reads the queries of one request, and notes violations."""

    def __init__(self, schema: Schema, violations: Violations, *, max_depth: int, is_exact: bool) -> None:
        self._schema = schema
        self._violations = violations
        self._max_depth = max_depth
        self._is_exact = is_exact
        # Raised only if the request has no violations.
        self.mismatches: list[PreconditionFailed] = []

    def read(self, path: str, given: pb.FieldQuery) -> Query | CascadeQuery | None:
        """Return the query; None, with a violation noted, if it is invalid."""
        then = self._read(path, given)
        self._violations.limit(f"{path}.among", len(given.among), low=0, high=_AMONG_MAX, what="queries")
        among = [self._first(f"{path}.among[{i}]", one) for i, one in enumerate(given.among)]
        first = tuple(query for query in among if query is not None)
        return CascadeQuery(first, then) if first and then is not None else then

    def _first(self, path: str, given: pb.FieldQuery) -> Query | None:
        if given.among:
            self._violations.add(f"{path}.among", f"expected none in a nested query, got {len(given.among)}")
        return self._read(path, given)

    def _read(self, path: str, given: pb.FieldQuery) -> Query | None:
        field = self._field(path, given)
        if field is None:
            return None
        self._violations.count(f"{path}.depth", given.depth, low=1, high=self._max_depth, what="candidates")
        if given.HasField("oversampling") and not 1 <= given.oversampling <= _OVERSAMPLING_MAX:
            self._violations.add(
                f"{path}.oversampling",
                f"expected 1 to {_OVERSAMPLING_MAX:g}, got {given.oversampling:g}",
                expected_max=_OVERSAMPLING_MAX,
                given=given.oversampling,
            )
        for name in _PART.values():
            if name != _PART[type(field)] and _is_set(given, name):
                self._violations.add(
                    f"{path}.{name}", f"expected {_PART[type(field)]} for field {field.name!r}, got {name}"
                )
        if (
            not isinstance(field, TextField)
            and given.model_digest
            and field.model_digest not in {"", given.model_digest}
        ):
            self.mismatches.append(mismatch(path, field, given.model_digest))
        self._check_feedback(path, given, field)
        readers: dict[type[SearchField], Callable[[str, pb.FieldQuery, Any], Query | None]] = {
            DenseField: self._dense,
            TextField: self._text,
            SparseField: self._sparse,
            MultiVectorField: self._multi_vector,
        }
        return readers[type(field)](path, given, field)

    def _field(self, path: str, given: pb.FieldQuery) -> SearchField | None:
        """Return the field with the given name, or the only field that fits the query."""
        fields = self._schema.search_fields
        if given.field:
            named = [field for field in fields if field.name == given.field]
        else:
            fitting = [field for field in fields if _is_set(given, _PART[type(field)])]
            named = fitting or list(fields)
        if len(named) == 1:
            return named[0]
        names = ", ".join(field.name for field in fields)
        self._violations.add(f"{path}.field", f"expected one of {names}, got {given.field[:64]!r}")
        return None

    def _dense(self, path: str, given: pb.FieldQuery, field: DenseField) -> Query | None:
        path = f"{path}.dense"
        vector = checked(given.dense, field=path, shape=(field.dimensions,), violations=self._violations)
        if vector is None:
            return None
        check_lengths(path, vector[None], field.metric, self._violations)
        feedback = tuple((one.document_id, one.weight) for one in given.feedback)
        return DenseQuery(field, vector, given.depth, self._is_exact, _oversampling(given), feedback=feedback)

    def _check_feedback(self, path: str, given: pb.FieldQuery, field: SearchField) -> None:
        most = _FEEDBACK_MAX if isinstance(field, DenseField) else 0
        what = "documents" if most else f"documents for field {field.name!r}, which is not dense"
        self._violations.count(f"{path}.feedback", len(given.feedback), low=0, high=most, what=what)
        for position, one in enumerate(given.feedback[:most]):
            if not -_WEIGHT_MAX <= one.weight <= _WEIGHT_MAX:
                expected = f"expected {-_WEIGHT_MAX} to {_WEIGHT_MAX}, got {one.weight}"
                self._violations.add(f"{path}.feedback[{position}].weight", expected)

    def _text(self, path: str, given: pb.FieldQuery, field: TextField) -> Query:
        self._violations.text(f"{path}.text", given.text, max_bytes=_TEXT_BYTES_MAX)
        analysis = analyzer(field.language, keeps_stop_words=field.keeps_stop_words, version=field.analysis)
        keys = analysis.query_keys(given.text[:_TEXT_BYTES_MAX])
        return TextQuery(field, *np.unique(keys, return_counts=True), given.depth)

    def _sparse(self, path: str, given: pb.FieldQuery, field: SparseField) -> Query | None:
        path = f"{path}.sparse"
        counts = given.sparse.term_counts
        if len(counts) != 1 or not 0 <= counts[0] <= _TERMS_MAX:
            expected = f"expected the count of one text, up to {_TERMS_MAX:,}"
            self._violations.add(f"{path}.term_counts", f"{expected}, got {list(counts[:4])}")
            return None
        terms = read_terms(path, given.sparse, np.array(counts, dtype=np.int64), self._violations)
        return None if terms is None else SparseQuery(field, terms.keys, terms.values, given.depth)

    def _multi_vector(self, path: str, given: pb.FieldQuery, field: MultiVectorField) -> Query | None:
        path = f"{path}.multi_vector"
        count = given.multi_vector.shape[0] if given.multi_vector.shape else 0
        if not 1 <= count <= _TOKENS_MAX:
            self._violations.count(path, count, low=1, high=_TOKENS_MAX, what="tokens")
            return None
        tokens = read_tokens(path, given.multi_vector, (count, field.dimensions), self._violations)
        if tokens is None:
            return None
        return MultiVectorQuery(field, tokens, given.depth, self._is_exact, _oversampling(given))


def _oversampling(given: pb.FieldQuery) -> float | None:
    return given.oversampling if given.HasField("oversampling") else None


def _is_set(given: pb.FieldQuery, name: str) -> bool:
    """Return whether a part of the message is set."""
    return bool(given.text) if name == "text" else given.HasField(name)  # type: ignore[arg-type]
