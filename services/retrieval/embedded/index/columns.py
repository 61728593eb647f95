"""Metadata by columns, so that a filter is a few numpy operations over all documents at once.

Rule: columns are immutable. A document without the field is absent, and no comparison with it is true.
"""

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import I32, I64, Bool
from services.retrieval.domain.documents import Scalar, Timestamp, Value, kind_of
from services.retrieval.domain.schema import Kind


class Operator(StrEnum):
    """How a field and a value are compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


COMPARE: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


class Column(Protocol):
    """The values of one metadata field, one a document."""

    @property
    def present(self) -> Bool:
        """bool[N]: which documents have the field."""

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """bool[N]: where the field compares so with a value of its type."""

    def among(self, members: "Members") -> Bool:
        """bool[N]: where the field equals one of the members, which are of its type."""

    def contains(self, value: Scalar) -> Bool:
        """bool[N]: where the field is a list with that element."""

    def take(self, positions: I64) -> Self:
        """The column of these documents."""

    @classmethod
    def joined(cls, columns: Sequence[Any]) -> Self:
        """The columns one after the other."""

    def state(self) -> "State":
        """What to save it as."""

    @classmethod
    def restored(cls, state: "State") -> Self:
        """What `state` was taken of."""


State = tuple[dict[str, NDArray[Any]], Sequence[Scalar]]
Members = tuple[str, ...] | NDArray[Any]
"""Distinct values in rising order: strings, or an array of numbers, bools or microseconds."""


def members_of(values: Sequence[Scalar]) -> Members:
    """Return the values of a membership, all of one type, as columns look them up."""
    words = {value for value in values if isinstance(value, str)}
    if words:
        return tuple(sorted(words))
    return np.unique([value.us if isinstance(value, Timestamp) else value for value in values])


@dataclass(frozen=True)
class ScalarColumn:
    """Numbers (float64), bools or timestamps (int64 microseconds)."""

    values: NDArray[Any]
    present: Bool

    @classmethod
    def of(cls, values: Sequence[Value | None], dtype: type[np.float64 | np.int64 | np.bool_]) -> Self:
        """The column of these values; None is absent."""
        plain = [value.us if isinstance(value, Timestamp) else value for value in values]
        present = np.array([value is not None for value in values], dtype=np.bool_)
        return cls(np.array([0 if value is None else value for value in plain], dtype=dtype), present)

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """bool[N]: where the field compares so with the value."""
        plain = value.us if isinstance(value, Timestamp) else value
        result: Bool = COMPARE[how](self.values, plain) & self.present
        return result

    def among(self, members: Members) -> Bool:
        """bool[N]: where the field equals one of the members."""
        assert isinstance(members, np.ndarray)
        places = np.minimum(np.searchsorted(members, self.values), len(members) - 1)
        result: Bool = (members[places] == self.values) & self.present
        return result

    def contains(self, value: Scalar) -> Bool:
        """Nowhere: a scalar is not a list."""
        return np.zeros(len(self.values), dtype=np.bool_)

    def take(self, positions: I64) -> Self:
        """The column of these documents."""
        return type(self)(self.values[positions], self.present[positions])

    @classmethod
    def joined(cls, columns: Sequence[Self]) -> Self:
        """The columns one after the other."""
        values = np.concatenate([column.values for column in columns])
        return cls(values, np.concatenate([column.present for column in columns]))

    def state(self) -> State:
        """What to save it as."""
        return {"values": self.values, "present": self.present}, ()

    @classmethod
    def restored(cls, state: State) -> Self:
        """What `state` was taken of."""
        return cls(state[0]["values"], state[0]["present"])


@dataclass(frozen=True)
class StringColumn:
    """Strings as int32 codes into their sorted words: the order of codes is that of strings. -1 is absent."""

    codes: I32
    words: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[Value | None]) -> Self:
        """The column of these values; None is absent."""
        words = tuple(sorted({value for value in values if isinstance(value, str)}))
        code: dict[Value | None, int] = {word: number for number, word in enumerate(words)}
        return cls(np.array([code.get(value, -1) for value in values], dtype=np.int32), words)

    @property
    def present(self) -> Bool:
        """bool[N]: which documents have the field."""
        return self.codes >= 0

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """bool[N]: where the field compares so with the value, by code point."""
        assert isinstance(value, str)
        low, high = bisect_left(self.words, value), bisect_right(self.words, value)
        match how:
            case Operator.LESS:
                result = self.codes < low
            case Operator.LESS_OR_EQUAL:
                result = self.codes < high
            case Operator.GREATER:
                result = self.codes >= high
            case Operator.GREATER_OR_EQUAL:
                result = self.codes >= low
            case Operator.EQUAL:
                result = (self.codes >= low) & (self.codes < high)
            case Operator.NOT_EQUAL:
                result = (self.codes < low) | (self.codes >= high)
        return result & self.present

    def among(self, members: Members) -> Bool:
        """bool[N]: where the field equals one of the members."""
        # The last place is where the code -1, absent, looks.
        is_member = np.zeros(len(self.words) + 1, dtype=np.bool_)
        for member in members:
            place = bisect_left(self.words, member)
            if place < len(self.words) and self.words[place] == member:
                is_member[place] = True
        return is_member[self.codes]

    def contains(self, value: Scalar) -> Bool:
        """Nowhere: a string is not a list."""
        return np.zeros(len(self.codes), dtype=np.bool_)

    def take(self, positions: I64) -> Self:
        """The column of these documents."""
        return type(self)(self.codes[positions], self.words)

    @classmethod
    def joined(cls, columns: Sequence[Self]) -> Self:
        """The columns one after the other, without words that no document uses any more."""
        used = [np.unique(column.codes[column.present]) for column in columns]
        words = tuple(sorted({c.words[code] for c, codes in zip(columns, used, strict=True) for code in codes}))
        code = {word: number for number, word in enumerate(words)}
        # The last place of each table is where the code -1, absent, looks.
        tables = [np.array([*(code.get(word, -1) for word in c.words), -1], dtype=np.int32) for c in columns]
        return cls(np.concatenate([table[c.codes] for table, c in zip(tables, columns, strict=True)]), words)

    def state(self) -> State:
        """What to save it as."""
        return {"codes": self.codes}, self.words

    @classmethod
    def restored(cls, state: State) -> Self:
        """What `state` was taken of."""
        return cls(state[0]["codes"], tuple(str(word) for word in state[1]))


Element = tuple[Kind, Scalar]


@dataclass(frozen=True)
class ListColumn:
    """Lists by their elements: `owners[m]` is the document of element m, `codes[m]` its place in `elements`."""

    present: Bool
    owners: I32
    codes: I32
    elements: tuple[Element, ...]

    @cached_property
    def _code_of(self) -> dict[Element, int]:
        return {element: code for code, element in enumerate(self.elements)}

    @classmethod
    def of(cls, values: Sequence[Value | None]) -> Self:
        """The column of these values; None is absent."""
        code: dict[Element, int] = {}
        owners: list[int] = []
        codes: list[int] = []
        for position, value in enumerate(values):
            for element in dict.fromkeys(value) if isinstance(value, tuple) else ():
                owners.append(position)
                # The kind is part of the key: to Python, True equals 1.0.
                codes.append(code.setdefault((kind_of(element), element), len(code)))
        present = np.array([value is not None for value in values], dtype=np.bool_)
        return cls(present, np.array(owners, dtype=np.int32), np.array(codes, dtype=np.int32), tuple(code))

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """Nowhere: a list is not a scalar."""
        return np.zeros(len(self.present), dtype=np.bool_)

    def among(self, members: Members) -> Bool:
        """Nowhere: a list is not a scalar."""
        return np.zeros(len(self.present), dtype=np.bool_)

    def contains(self, value: Scalar) -> Bool:
        """bool[N]: where the list has that element."""
        result = np.zeros(len(self.present), dtype=np.bool_)
        code = self._code_of.get((kind_of(value), value))
        if code is not None:
            result[self.owners[self.codes == code]] = True
        return result

    def take(self, positions: I64) -> Self:
        """The column of these documents."""
        place = np.full(len(self.present), -1, dtype=np.int32)
        place[positions] = np.arange(len(positions), dtype=np.int32)
        kept = place[self.owners] >= 0
        return type(self)(self.present[positions], place[self.owners[kept]], self.codes[kept], self.elements)

    @classmethod
    def joined(cls, columns: Sequence[Self]) -> Self:
        """The columns one after the other, without elements that no document has any more."""
        code: dict[Element, int] = {}
        owners, codes, start = [], [], 0
        for column in columns:
            table = np.full(len(column.elements), -1, dtype=np.int32)
            for used in np.unique(column.codes):
                table[used] = code.setdefault(column.elements[used], len(code))
            owners.append(column.owners + np.int32(start))
            codes.append(table[column.codes])
            start += len(column.present)
        present = np.concatenate([column.present for column in columns])
        return cls(present, np.concatenate(owners), np.concatenate(codes), tuple(code))

    def state(self) -> State:
        """What to save it as."""
        arrays = {"present": self.present, "owners": self.owners, "codes": self.codes}
        return arrays, [value for _, value in self.elements]

    @classmethod
    def restored(cls, state: State) -> Self:
        """What `state` was taken of."""
        elements = tuple((kind_of(value), value) for value in state[1])
        return cls(state[0]["present"], state[0]["owners"], state[0]["codes"], elements)


COLUMNS: Final[dict[Kind, type[Column]]] = {
    Kind.STRING: StringColumn,
    Kind.NUMBER: ScalarColumn,
    Kind.BOOL: ScalarColumn,
    Kind.TIMESTAMP: ScalarColumn,
    Kind.LIST: ListColumn,
}


def column(kind: Kind, values: Sequence[Value | None]) -> Column:
    """The column of a field's values; None is absent."""
    match kind:
        case Kind.STRING:
            return StringColumn.of(values)
        case Kind.LIST:
            return ListColumn.of(values)
        case Kind.TIMESTAMP:
            return ScalarColumn.of(values, np.int64)
        case Kind.BOOL:
            return ScalarColumn.of(values, np.bool_)
        case Kind.NUMBER:
            return ScalarColumn.of(values, np.float64)
