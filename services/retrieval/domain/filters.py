"""A filter as a typed tree, and where it is true.

Rule: trees are built by `wire.filters`, which checks every field and value against the schema and bounds their number;
nothing is checked here. Each condition first calls `check`, which raises when nobody waits for the result any more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from services.core.arrays import Bool
from services.retrieval.domain.documents import Scalar
from services.retrieval.embedded.index.columns import Column, Members, Operator, members_of

Columns = Mapping[str, Column]
Check = Callable[[], object]
"""Raises when the work is to stop."""


@dataclass(frozen=True)
class AllOf:
    """True when all conditions are."""

    conditions: tuple["Filter", ...]

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N], of the N documents behind the columns."""
        return _joined(np.logical_and, self.conditions, columns, check)


@dataclass(frozen=True)
class AnyOf:
    """True when at least one condition is."""

    conditions: tuple["Filter", ...]

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N]."""
        return _joined(np.logical_or, self.conditions, columns, check)


@dataclass(frozen=True)
class NoneOf:
    """True when no condition is."""

    conditions: tuple["Filter", ...]

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N]."""
        return ~_joined(np.logical_or, self.conditions, columns, check)


@dataclass(frozen=True)
class Comparison:
    """True when the field compares so with the value; false when the document does not have it."""

    field: str
    how: Operator
    value: Scalar

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N]."""
        check()
        return columns[self.field].compare(self.how, self.value)


@dataclass(frozen=True)
class Membership:
    """True when the field equals one of the values."""

    field: str
    values: tuple[Scalar, ...]

    @cached_property
    def members(self) -> Members:
        """The values as columns look them up, prepared once for all parts of a collection."""
        return members_of(self.values)

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N]."""
        check()
        return columns[self.field].among(self.members)


@dataclass(frozen=True)
class Contains:
    """True when the field is a list with that element."""

    field: str
    value: Scalar

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N]."""
        check()
        return columns[self.field].contains(self.value)


@dataclass(frozen=True)
class Exists:
    """True when the document has the field."""

    field: str

    def matches(self, columns: Columns, check: Check) -> Bool:
        """Return where it is true, bool[N]."""
        check()
        return columns[self.field].present


Filter = AllOf | AnyOf | NoneOf | Comparison | Membership | Contains | Exists


def _joined(join: Callable[[Any, Any], Any], conditions: Sequence[Filter], columns: Columns, check: Check) -> Bool:
    """The masks of all conditions as one; only two of them are in memory at a time."""
    result: Bool = reduce(join, (condition.matches(columns, check) for condition in conditions))
    return result
