"""A filter as a typed tree, and where it is true.

Rule: trees are built by `wire.filters`, which checks every field and value against the schema; nothing is checked here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.core.arrays import Bool
from services.retrieval.columns import Column, Operator
from services.retrieval.documents import Scalar

Columns = Mapping[str, Column]


@dataclass(frozen=True)
class AllOf:
    """True when all conditions are."""

    conditions: tuple["Filter", ...]

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true of the N documents behind the columns."""
        result = self.conditions[0].matches(columns)
        for condition in self.conditions[1:]:
            result = result & condition.matches(columns)
        return result


@dataclass(frozen=True)
class AnyOf:
    """True when at least one condition is."""

    conditions: tuple["Filter", ...]

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true."""
        return _any([condition.matches(columns) for condition in self.conditions])


@dataclass(frozen=True)
class NoneOf:
    """True when no condition is."""

    conditions: tuple["Filter", ...]

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true."""
        return ~_any([condition.matches(columns) for condition in self.conditions])


@dataclass(frozen=True)
class Comparison:
    """True when the field compares so with the value; false when the document does not have it."""

    field: str
    how: Operator
    value: Scalar

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true."""
        return columns[self.field].compare(self.how, self.value)


@dataclass(frozen=True)
class Membership:
    """True when the field equals one of the values."""

    field: str
    values: tuple[Scalar, ...]

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true."""
        return _any([columns[self.field].compare(Operator.EQUAL, value) for value in self.values])


@dataclass(frozen=True)
class Contains:
    """True when the field is a list with that element."""

    field: str
    value: Scalar

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true."""
        return columns[self.field].contains(self.value)


@dataclass(frozen=True)
class Exists:
    """True when the document has the field."""

    field: str

    def matches(self, columns: Columns) -> Bool:
        """bool[N]: where it is true."""
        return columns[self.field].present


Filter = AllOf | AnyOf | NoneOf | Comparison | Membership | Contains | Exists


def _any(masks: Sequence[Bool]) -> Bool:
    result = masks[0]
    for mask in masks[1:]:
        result = result | mask
    return result
