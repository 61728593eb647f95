"""Filters, from protos. Checks fields and values against the schema, and limits depth and size."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from sluice.common.v1 import filter_pb2 as pb
from sluice.common.v1.document_pb2 import MetadataValue

from services.retrieval.domain.documents import Scalar, kind_of
from services.retrieval.domain.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Contains,
    Exists,
    Filter,
    Membership,
    NoneOf,
    Operator,
)
from services.retrieval.domain.schema import Kind, Schema
from services.retrieval.wire.documents import scalar
from services.rpc.validation import Violations

DEPTH_MAX: Final = 32
CONDITIONS_MAX: Final = 256
VALUES_MAX: Final = 1024
# Conditions and values together. A condition takes about 1 ms per million documents, so a filter takes a few seconds
# at most. Eight memberships of the maximum size fit.
SIZE_MAX: Final = 8192

_Group = type[AllOf | AnyOf | NoneOf]

_GROUPS: Final[dict[str, _Group]] = {"all_of": AllOf, "any_of": AnyOf, "none_of": NoneOf}
_OPERATORS: Final = {
    pb.Comparison.OPERATOR_EQUAL: Operator.EQUAL,
    pb.Comparison.OPERATOR_NOT_EQUAL: Operator.NOT_EQUAL,
    pb.Comparison.OPERATOR_LESS: Operator.LESS,
    pb.Comparison.OPERATOR_LESS_OR_EQUAL: Operator.LESS_OR_EQUAL,
    pb.Comparison.OPERATOR_GREATER: Operator.GREATER,
    pb.Comparison.OPERATOR_GREATER_OR_EQUAL: Operator.GREATER_OR_EQUAL,
}
_UNORDERED: Final = frozenset({Operator.EQUAL, Operator.NOT_EQUAL})
# Placeholder for an invalid condition. Never evaluated.
_INVALID: Final = Exists("")


class FilterReader:
    """Reads the filters of one request, and notes violations of the schema and the limits."""

    def __init__(self, schema: Schema, violations: Violations) -> None:
        self._schema = schema
        self._violations = violations

    def read(self, path: str, given: pb.Filter) -> Filter:
        """Return the filter, or a placeholder if it is invalid."""
        if not _is_within(given, SIZE_MAX):
            description = f"expected at most {SIZE_MAX:,} conditions and values in total, got more"
            self._violations.add(path, description, expected_max=SIZE_MAX)
            return _INVALID
        return self._read(path, given, 1)

    def _read(self, path: str, given: pb.Filter, depth: int) -> Filter:
        which = given.WhichOneof("condition")
        if which is None:
            return self._reject(path, "expected a condition, got none")
        part: Any = getattr(given, which)
        if which in _GROUPS:
            return self._group(f"{path}.{which}", _GROUPS[which], part, depth)
        readers: dict[str, Callable[[str, Any], Filter]] = {
            "comparison": self._comparison,
            "membership": self._membership,
            "contains": self._contains,
            "exists": self._exists,
        }
        return readers[which](f"{path}.{which}", part)

    def _group(self, path: str, group: _Group, given: pb.FilterList, depth: int) -> Filter:
        if depth >= DEPTH_MAX:
            return self._reject(path, f"expected conditions nested at most {DEPTH_MAX} deep, got deeper ones")
        self._violations.count(f"{path}.filters", len(given.filters), low=1, high=CONDITIONS_MAX, what="conditions")
        # Conditions beyond the limit are not read, because the request is rejected anyway.
        inner = enumerate(given.filters[:CONDITIONS_MAX])
        return group(tuple(self._read(f"{path}.filters[{i}]", one, depth + 1) for i, one in inner))

    def _comparison(self, path: str, given: pb.Comparison) -> Filter:
        kind = self._kind(f"{path}.field", given.field)
        operator = _OPERATORS.get(given.operator)
        if operator is None:
            return self._reject(f"{path}.operator", f"expected an operator, got number {given.operator}")
        if kind is Kind.LIST:
            return self._reject(f"{path}.field", f"expected no list field, got {given.field!r}; use contains for lists")
        if kind is Kind.BOOL and operator not in _UNORDERED:
            return self._reject(f"{path}.operator", f"expected = or != for bools, got {operator}")
        return Comparison(given.field, operator, self._value(f"{path}.value", given.value, kind))

    def _membership(self, path: str, given: pb.Membership) -> Filter:
        kind = self._kind(f"{path}.field", given.field)
        self._violations.count(f"{path}.values", len(given.values), low=1, high=VALUES_MAX, what="values")
        if kind is Kind.LIST:
            return self._reject(f"{path}.field", f"expected no list field, got {given.field!r}; use contains for lists")
        return Membership(given.field, self._values(f"{path}.values", given.values[:VALUES_MAX], kind))

    def _contains(self, path: str, given: pb.Contains) -> Filter:
        kind = self._kind(f"{path}.field", given.field)
        value = scalar(f"{path}.value", given.value, self._violations)
        if kind not in {Kind.LIST, None}:
            return self._reject(f"{path}.field", f"expected a list field, got {given.field!r}, which is a {kind}")
        return Contains(given.field, value)

    def _exists(self, path: str, given: str) -> Filter:
        self._kind(path, given)
        return Exists(given)

    def _values(self, path: str, given: Sequence[MetadataValue], kind: Kind | None) -> tuple[Scalar, ...]:
        return tuple(self._value(f"{path}[{i}]", value, kind) for i, value in enumerate(given))

    def _value(self, path: str, given: MetadataValue, kind: Kind | None) -> Scalar:
        value = scalar(path, given, self._violations)
        if kind is not None and given.WhichOneof("value") not in {None, "list_value"} and kind_of(value) is not kind:
            self._violations.add(path, f"expected a {kind}, as the field is declared, got a {kind_of(value)}")
        return value

    def _kind(self, path: str, name: str) -> Kind | None:
        """Return the declared type of a field; None, with a violation noted, if there is none."""
        kind = self._schema.kind(name)
        if kind is None:
            declared = ", ".join(field.name for field in self._schema.metadata) or "none is declared"
            self._violations.add(path, f"expected a declared metadata field ({declared}), got {name[:64]!r}")
        return kind

    def _reject(self, path: str, description: str) -> Filter:
        self._violations.add(path, description)
        return _INVALID


def _is_within(given: pb.Filter, most: int) -> bool:
    """Return whether a filter has at most `most` conditions and values, without visiting more of them."""
    waiting, size = [given], 0
    while waiting and size <= most:
        one = waiting.pop()
        which = one.WhichOneof("condition")
        size += 1
        if which in _GROUPS:
            inner = getattr(one, which).filters
            if len(inner) > most:
                return False
            waiting.extend(inner)
        elif which == "membership":
            size += len(one.membership.values)
        if len(waiting) > most:
            return False
    return size <= most
