"""Translation of filters into expressions of Milvus over the JSON field with the metadata.

Rule: field names come from a validated schema, and only this module makes literals of values. Templates (`{name}`,
since Milvus 2.5) would need no literals, but older servers and Milvus Lite do not support them.

Facts: for a document without the field, `!=` is true in Milvus 2.3, and `not` is neither true nor false in Milvus Lite.
So each condition first tests that the field exists. It is then false without the field, as in the embedded engine.
"""

from collections.abc import Sequence
from typing import Final

from services.retrieval.domain.documents import Scalar, Timestamp, kind_of
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
from services.retrieval.milvus.fields import ID, METADATA

_OPERATORS: Final = {Operator.EQUAL: "=="}
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def literal(value: Scalar) -> str:
    """Return a value as a literal. Numbers have a decimal point or an exponent, so that they are never integers."""
    match value:
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case bool():
            return "true" if value else "false"
        case Timestamp(us):
            return str(us)
    return repr(float(value))


def ids_in(ids: Sequence[str]) -> str:
    """Return the expression for the documents with these ids."""
    return f"{ID} in [{', '.join(map(literal, ids))}]"


def ids_after(after: str) -> str:
    """Return the expression for the documents with ids above `after`."""
    return f"{ID} > {literal(after)}"


def both(first: str, second: str) -> str:
    """Return the conjunction of two expressions. An empty expression is always true."""
    return f"({first}) and ({second})" if first and second else first or second


class Expressions:
    """Translates the filters of one collection."""

    def __init__(self, schema: Schema, *, has_membership: bool) -> None:
        self._schema = schema
        self._has_membership = has_membership

    def of(self, condition: Filter | None) -> str:
        """Return the expression of a filter, empty without one."""
        match condition:
            case None:
                return ""
            case AllOf(conditions):
                return self._join("and", conditions)
            case AnyOf(conditions):
                return self._join("or", conditions)
            case NoneOf(conditions):
                return f"not ({self._join('or', conditions)})"
        return self._leaf(condition)

    def _leaf(self, condition: Comparison | Membership | Contains | Exists) -> str:
        path = self._path(condition.field)
        match condition:
            case Exists():
                return f"exists {path}"
            case Comparison(_, operator, value):
                test = f"{path} {_OPERATORS.get(operator, operator)} {literal(value)}"
            case Membership(_, values):
                test = self._member(path, [literal(value) for value in values])
            case Contains(_, value):
                if kind_of(value) is Kind.TIMESTAMP:  # no list contains timestamps
                    return f'{ID} == ""'
                test = f"json_contains({path}, {literal(value)})"
        return f"(exists {path}) and ({test})"

    def _join(self, word: str, conditions: Sequence[Filter]) -> str:
        return _join_balanced(word, [f"({self.of(condition)})" for condition in conditions])

    def _member(self, path: str, values: Sequence[str]) -> str:
        if self._has_membership:
            return f"{path} in [{', '.join(values)}]"
        return _join_balanced("or", [f"({path} == {value})" for value in values])

    def _path(self, field: str) -> str:
        path = f'{METADATA}["{field}"]'
        return f'{path}["us"]' if self._schema.kind(field) is Kind.TIMESTAMP else path


def _join_balanced(word: str, parts: Sequence[str]) -> str:
    """Join the parts by the word with minimal nesting, because parsers recurse."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_join_balanced(word, parts[:half])} {word} {_join_balanced(word, parts[half:])})"
