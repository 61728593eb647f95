"""Filters as Milvus's expressions over the JSON field with the metadata.

Rule: names of fields come from a checked schema, and values become literals here alone. Templates (`{name}`, since
Milvus 2.5) would do without literals, but older servers and Milvus Lite do not have them.

Facts: of a document without the field, Milvus 2.3 says true to `!=`, and Milvus Lite neither true nor false to `not`.
So each condition asks first whether the field is there: it is false then, as ours is, whatever stands around it.
"""

from collections.abc import Sequence
from typing import Final

from services.retrieval.domain.documents import Scalar, Timestamp, kind_of
from services.retrieval.domain.filters import AllOf, AnyOf, Comparison, Contains, Exists, Filter, Membership, NoneOf
from services.retrieval.domain.schema import Kind, Schema
from services.retrieval.embedded.index.columns import Operator
from services.retrieval.milvus.fields import ID, METADATA

_OPERATORS: Final = {Operator.EQUAL: "=="}
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def literal(value: Scalar) -> str:
    """A value as Milvus reads it: numbers always with a point or an exponent, so that they are never integers."""
    match value:
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case bool():
            return "true" if value else "false"
        case Timestamp(us):
            return str(us)
    return repr(float(value))


def ids_in(ids: Sequence[str]) -> str:
    """True of the documents with these ids."""
    return f"{ID} in [{', '.join(map(literal, ids))}]"


def ids_after(after: str) -> str:
    """True of the documents with ids above that."""
    return f"{ID} > {literal(after)}"


def both(first: str, second: str) -> str:
    """True when both are; an empty one asks nothing."""
    return f"({first}) and ({second})" if first and second else first or second


class Expressions:
    """Writes the filters of one collection."""

    def __init__(self, schema: Schema, *, has_membership: bool) -> None:
        self._schema = schema
        self._has_membership = has_membership

    def of(self, condition: Filter | None) -> str:
        """The expression that is true where the condition is; empty when there is none."""
        match condition:
            case None:
                return ""
            case AllOf(conditions):
                return self._joined("and", conditions)
            case AnyOf(conditions):
                return self._joined("or", conditions)
            case NoneOf(conditions):
                return f"not ({self._joined('or', conditions)})"
        return self._leaf(condition)

    def _leaf(self, condition: Comparison | Membership | Contains | Exists) -> str:
        place = self._place(condition.field)
        match condition:
            case Exists():
                return f"exists {place}"
            case Comparison(_, how, value):
                test = f"{place} {_OPERATORS.get(how, how)} {literal(value)}"
            case Membership(_, values):
                test = self._member(place, [literal(value) for value in values])
            case Contains(_, value):
                if kind_of(value) is Kind.TIMESTAMP:  # which no list holds
                    return f'{ID} == ""'
                test = f"json_contains({place}, {literal(value)})"
        return f"(exists {place}) and ({test})"

    def _joined(self, word: str, conditions: Sequence[Filter]) -> str:
        return _balanced(word, [f"({self.of(condition)})" for condition in conditions])

    def _member(self, place: str, values: Sequence[str]) -> str:
        if self._has_membership:
            return f"{place} in [{', '.join(values)}]"
        return _balanced("or", [f"({place} == {value})" for value in values])

    def _place(self, field: str) -> str:
        place = f'{METADATA}["{field}"]'
        return f'{place}["us"]' if self._schema.kind(field) is Kind.TIMESTAMP else place


def _balanced(word: str, parts: Sequence[str]) -> str:
    """The parts joined by the word, nested as little as can be: parsers recurse."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_balanced(word, parts[:half])} {word} {_balanced(word, parts[half:])})"
