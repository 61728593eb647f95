"""Filters over metadata as a typed tree.

Rule: `wire.filters` builds the trees. It checks each field and value against the schema and limits the size of the
tree, so nothing is checked here. Engines evaluate a tree or translate it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.retrieval.domain.documents import Scalar, Timestamp

Check = Callable[[], object]
"""Raises when the work must stop: the caller is gone, or its deadline has passed."""
Members = tuple[str, ...] | NDArray[Any]
"""Distinct values in ascending order: strings, or an array of numbers, bools or microseconds."""


class Operator(StrEnum):
    """Comparison of a field with a value."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True)
class AllOf:
    """True if every condition is true."""

    conditions: tuple["Filter", ...]


@dataclass(frozen=True)
class AnyOf:
    """True if at least one condition is true."""

    conditions: tuple["Filter", ...]


@dataclass(frozen=True)
class NoneOf:
    """True if no condition is true."""

    conditions: tuple["Filter", ...]


@dataclass(frozen=True)
class Comparison:
    """True if the field compares with the value as the operator says; false if the document lacks the field."""

    field: str
    operator: Operator
    value: Scalar


@dataclass(frozen=True)
class Membership:
    """True if the field equals one of the values."""

    field: str
    values: tuple[Scalar, ...]

    @cached_property
    def members(self) -> Members:
        """The distinct values in ascending order, computed once for all blocks of a collection."""
        return members_of(self.values)


@dataclass(frozen=True)
class Contains:
    """True if the field is a list with this element."""

    field: str
    value: Scalar


@dataclass(frozen=True)
class Exists:
    """True if the document has the field."""

    field: str


Filter = AllOf | AnyOf | NoneOf | Comparison | Membership | Contains | Exists


def members_of(values: Sequence[Scalar]) -> Members:
    """Return the distinct values of one type in ascending order."""
    strings = {value for value in values if isinstance(value, str)}
    if strings:
        return tuple(sorted(strings))
    return np.unique([value.us if isinstance(value, Timestamp) else value for value in values])
