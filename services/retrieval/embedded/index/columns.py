"""Metadata in columns, so that a filter takes a few numpy operations over all documents.

Rule: columns are immutable. A comparison is never true of a document without the field.
"""

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import I32, I64, Bool
from services.retrieval.domain.documents import Scalar, Timestamp, Value, kind_of
from services.retrieval.domain.filters import Members, Operator
from services.retrieval.domain.schema import Kind

COMPARE: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


State = tuple[dict[str, NDArray[Any]], Sequence[Scalar]]
"""The arrays of a column by name, and the values that are not in arrays."""


class Column(Protocol):
    """The values of one metadata field of N documents."""

    @property
    def present(self) -> Bool:
        """Which documents have the field, bool[N]."""

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """Compare the field with a value of its type, bool[N]."""

    def is_among(self, members: Members) -> Bool:
        """Return where the field equals a member of its type, bool[N]."""

    def contains(self, value: Scalar) -> Bool:
        """Return where the field is a list with this element, bool[N]."""

    def take(self, positions: I64) -> Self:
        """Return the column of the documents at these positions."""

    @classmethod
    def concatenate(cls, columns: Sequence[Any]) -> Self:
        """Join several columns in order."""

    def state(self) -> State:
        """Return the arrays and values to save."""

    @classmethod
    def restore(cls, state: State) -> Self:
        """Return the column with a saved state."""


@dataclass(frozen=True)
class ScalarColumn:
    """Numbers (float64), bools or timestamps (int64 microseconds)."""

    values: NDArray[Any]
    present: Bool

    @classmethod
    def of(cls, values: Sequence[Value | None], dtype: type[np.float64 | np.int64 | np.bool_]) -> Self:
        """Build the column of these values. None means absent."""
        plain = [value.us if isinstance(value, Timestamp) else value for value in values]
        present = np.array([value is not None for value in values], dtype=np.bool_)
        return cls(np.array([0 if value is None else value for value in plain], dtype=dtype), present)

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """Compare the field with a value, bool[N]."""
        plain = value.us if isinstance(value, Timestamp) else value
        result: Bool = COMPARE[how](self.values, plain) & self.present
        return result

    def is_among(self, members: Members) -> Bool:
        """Return where the field equals a member, bool[N]."""
        assert isinstance(members, np.ndarray)
        places = np.minimum(np.searchsorted(members, self.values), len(members) - 1)
        result: Bool = (members[places] == self.values) & self.present
        return result

    def contains(self, value: Scalar) -> Bool:
        """Return all false: a scalar is not a list."""
        return np.zeros(len(self.values), dtype=np.bool_)

    def take(self, positions: I64) -> Self:
        """Return the column of the documents at these positions."""
        return type(self)(self.values[positions], self.present[positions])

    @classmethod
    def concatenate(cls, columns: Sequence[Self]) -> Self:
        """Join several columns in order."""
        values = np.concatenate([column.values for column in columns])
        return cls(values, np.concatenate([column.present for column in columns]))

    def state(self) -> State:
        """Return the arrays and values to save."""
        return {"values": self.values, "present": self.present}, ()

    @classmethod
    def restore(cls, state: State) -> Self:
        """Return the column with a saved state."""
        return cls(state[0]["values"], state[0]["present"])


@dataclass(frozen=True)
class StringColumn:
    """Strings as int32 codes, which are positions in the sorted `words`. Codes sort like strings; -1 means absent."""

    codes: I32
    words: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[Value | None]) -> Self:
        """Build the column of these values. None means absent."""
        words = tuple(sorted({value for value in values if isinstance(value, str)}))
        code: dict[Value | None, int] = {word: number for number, word in enumerate(words)}
        return cls(np.array([code.get(value, -1) for value in values], dtype=np.int32), words)

    @property
    def present(self) -> Bool:
        """Which documents have the field, bool[N]."""
        return self.codes >= 0

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """Compare the field with a value by code points, bool[N]."""
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

    def is_among(self, members: Members) -> Bool:
        """Return where the field equals a member, bool[N]."""
        # The code -1 of absent values reads the last element.
        is_member = np.zeros(len(self.words) + 1, dtype=np.bool_)
        for member in members:
            place = bisect_left(self.words, member)
            if place < len(self.words) and self.words[place] == member:
                is_member[place] = True
        return is_member[self.codes]

    def contains(self, value: Scalar) -> Bool:
        """Return all false: a string is not a list."""
        return np.zeros(len(self.codes), dtype=np.bool_)

    def take(self, positions: I64) -> Self:
        """Return the column of the documents at these positions."""
        return type(self)(self.codes[positions], self.words)

    @classmethod
    def concatenate(cls, columns: Sequence[Self]) -> Self:
        """Join several columns in order, and drop the words that no document uses any more."""
        used = [np.unique(column.codes[column.present]) for column in columns]
        words = tuple(sorted({c.words[code] for c, codes in zip(columns, used, strict=True) for code in codes}))
        code = {word: number for number, word in enumerate(words)}
        # The code -1 of absent values reads the last element of each table.
        tables = [np.array([*(code.get(word, -1) for word in c.words), -1], dtype=np.int32) for c in columns]
        return cls(np.concatenate([table[c.codes] for table, c in zip(tables, columns, strict=True)]), words)

    def state(self) -> State:
        """Return the arrays and values to save."""
        return {"codes": self.codes}, self.words

    @classmethod
    def restore(cls, state: State) -> Self:
        """Return the column with a saved state."""
        return cls(state[0]["codes"], tuple(str(word) for word in state[1]))


Element = tuple[Kind, Scalar]


@dataclass(frozen=True)
class ListColumn:
    """Lists by element: element m belongs to document `owners[m]` and has the value `elements[codes[m]]`."""

    present: Bool
    owners: I32
    codes: I32
    elements: tuple[Element, ...]

    @cached_property
    def _code_of(self) -> dict[Element, int]:
        return {element: code for code, element in enumerate(self.elements)}

    @classmethod
    def of(cls, values: Sequence[Value | None]) -> Self:
        """Build the column of these values. None means absent."""
        code: dict[Element, int] = {}
        owners: list[int] = []
        codes: list[int] = []
        for position, value in enumerate(values):
            for element in dict.fromkeys(value) if isinstance(value, tuple) else ():
                owners.append(position)
                # The kind is part of the key, because True equals 1.0 in Python.
                codes.append(code.setdefault((kind_of(element), element), len(code)))
        present = np.array([value is not None for value in values], dtype=np.bool_)
        return cls(present, np.array(owners, dtype=np.int32), np.array(codes, dtype=np.int32), tuple(code))

    def compare(self, how: Operator, value: Scalar) -> Bool:
        """Return all false: a list is not a scalar."""
        return np.zeros(len(self.present), dtype=np.bool_)

    def is_among(self, members: Members) -> Bool:
        """Return all false: a list is not a scalar."""
        return np.zeros(len(self.present), dtype=np.bool_)

    def contains(self, value: Scalar) -> Bool:
        """Return where the list has this element, bool[N]."""
        result = np.zeros(len(self.present), dtype=np.bool_)
        code = self._code_of.get((kind_of(value), value))
        if code is not None:
            result[self.owners[self.codes == code]] = True
        return result

    def take(self, positions: I64) -> Self:
        """Return the column of the documents at these positions."""
        place = np.full(len(self.present), -1, dtype=np.int32)
        place[positions] = np.arange(len(positions), dtype=np.int32)
        kept = place[self.owners] >= 0
        return type(self)(self.present[positions], place[self.owners[kept]], self.codes[kept], self.elements)

    @classmethod
    def concatenate(cls, columns: Sequence[Self]) -> Self:
        """Join several columns in order, and drop the elements that no document has any more."""
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
        """Return the arrays and values to save."""
        arrays = {"present": self.present, "owners": self.owners, "codes": self.codes}
        return arrays, [value for _, value in self.elements]

    @classmethod
    def restore(cls, state: State) -> Self:
        """Return the column with a saved state."""
        elements = tuple((kind_of(value), value) for value in state[1])
        return cls(state[0]["present"], state[0]["owners"], state[0]["codes"], elements)


COLUMNS: Final[dict[Kind, type[Column]]] = {
    Kind.STRING: StringColumn,
    Kind.NUMBER: ScalarColumn,
    Kind.BOOL: ScalarColumn,
    Kind.TIMESTAMP: ScalarColumn,
    Kind.LIST: ListColumn,
}


def column_of(kind: Kind, values: Sequence[Value | None]) -> Column:
    """Build the column of a field's values. None means absent."""
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
