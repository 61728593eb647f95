"""Filters in a text syntax, and their conversion to and from protos.

expression  all ("or" all)*
all         part ("and" part)*
part        "not" part | "(" expression ")" | condition
condition   field ("==" | "!=" | "<" | "<=" | ">" | ">=") value
            field "in" "(" value ("," value)* ")"
            value "in" field                          for a list field that contains the value
            "exists" "(" field ")"
value       'text' | "text" | number | true | false | timestamp('2024-05-01T12:00:00Z')
field       a name, or any text in backquotes

kind == 'function' and (year >= 2020 or not lang in ('en', 'de'))
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sluice.client.documents import Scalar, check_unicode, unfit, value_of, value_proto
from sluice.common.v1 import filter_pb2 as pb
from sluice.common.v1.document_pb2 import MetadataValue

# The limits of the servers, checked here too, so that a text is rejected before the rest of it is parsed.
MAX_DEPTH: Final = 32
MAX_CONDITIONS: Final = 256
MAX_VALUES: Final = 1024
MAX_SIZE: Final = 8192
MAX_BYTES: Final = 2**20
# Most characters of a text in an error message.
_SHOWN: Final = 64
_OPERATORS: Final[dict[str, pb.Comparison.Operator.ValueType]] = {
    "==": pb.Comparison.OPERATOR_EQUAL,
    "!=": pb.Comparison.OPERATOR_NOT_EQUAL,
    "<": pb.Comparison.OPERATOR_LESS,
    "<=": pb.Comparison.OPERATOR_LESS_OR_EQUAL,
    ">": pb.Comparison.OPERATOR_GREATER,
    ">=": pb.Comparison.OPERATOR_GREATER_OR_EQUAL,
}
_SYMBOLS: Final = {operator: symbol for symbol, operator in _OPERATORS.items()}
_WORDS: Final = frozenset({"and", "or", "not", "in", "exists", "true", "false", "timestamp"})
_TOKEN: Final = re.compile(
    r"""\s*+(?:
        (?P<text>'(?:[^'\\]++|\\.)*+'|"(?:[^"\\]++|\\.)*+")
      | (?P<number>[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?(?![\w.]))
      | (?P<name>[^\W\d]\w*)
      | `(?P<quoted>[^`]+)`
      | (?P<symbol>==|!=|<=|>=|[<>(),])
    )""",
    re.VERBOSE | re.DOTALL,
)


def where(text: str) -> pb.Filter:
    """Return the filter of a text. Raises InvalidRequest with a column, what was expected there, and what was given."""
    if len(text) > MAX_BYTES:
        raise unfit("filter", f"expected at most {MAX_BYTES:,} characters, got {len(text):,}")
    check_unicode(text, "filter")
    parser = _Parser(text)
    found = parser.expression(depth=1)
    parser.expect_end()
    return found


def filter_proto(condition: pb.Filter | str | None) -> pb.Filter | None:
    """Return the proto of a filter that is a text, a proto or None. Raises InvalidRequest."""
    return where(condition) if isinstance(condition, str) else condition


def to_text(condition: pb.Filter) -> str:
    """Return the text of a filter, such that `where(to_text(f))` is equivalent to `f`."""
    match condition.WhichOneof("condition"):
        case "all_of":
            text = _joined(condition.all_of, " and ")
        case "any_of":
            text = _joined(condition.any_of, " or ")
        case "none_of":
            text = f"not ({_joined(condition.none_of, ' or ')})"
        case "comparison":
            comparison = condition.comparison
            text = f"{_field_text(comparison.field)} {_SYMBOLS[comparison.operator]} {_text(comparison.value)}"
        case "membership":
            values = ", ".join(_text(value) for value in condition.membership.values)
            text = f"{_field_text(condition.membership.field)} in ({values})"
        case "contains":
            text = f"{_text(condition.contains.value)} in {_field_text(condition.contains.field)}"
        case "exists":
            text = f"exists({_field_text(condition.exists)})"
        case _:
            raise unfit("filter", "expected a condition, got none")
    return text


class _Token(NamedTuple):
    """A token: its kind, its text, and the column where it starts, from 1."""

    kind: str
    text: str
    column: int

    def is_word(self, word: str) -> bool:
        return self.kind == "name" and self.text == word


class _Parser:
    """A recursive-descent parser of one text, with a method for each rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._token = next(self._tokens)
        self._size = 0

    def expression(self, depth: int) -> pb.Filter:
        parts = self._separated(self._all, "or", depth)
        return parts[0] if len(parts) == 1 else pb.Filter(any_of=pb.FilterList(filters=parts))

    def expect_end(self) -> None:
        if self._peek().kind != "end":
            raise self._unexpected('"and", "or" or the end')

    def _all(self, depth: int) -> pb.Filter:
        parts = self._separated(self._part, "and", depth)
        return parts[0] if len(parts) == 1 else pb.Filter(all_of=pb.FilterList(filters=parts))

    def _separated(self, rule: Callable[[int], pb.Filter], word: str, depth: int) -> list[pb.Filter]:
        parts = [rule(depth)]
        while self._take_word(word):
            if len(parts) == MAX_CONDITIONS:
                raise unfit("filter", f'expected at most {MAX_CONDITIONS} conditions joined by "{word}", got more')
            parts.append(rule(depth))
        self._count(len(parts) > 1)
        return parts

    def _part(self, depth: int) -> pb.Filter:
        if depth > MAX_DEPTH:
            raise unfit("filter", f"expected at most {MAX_DEPTH} levels of nesting, got more")
        if self._take_word("not"):
            self._count()
            return pb.Filter(none_of=pb.FilterList(filters=[self._part(depth + 1)]))
        if self._take_symbol("("):
            inner = self.expression(depth + 1)
            self._expect_symbol(")")
            return inner
        return self._condition()

    def _condition(self) -> pb.Filter:
        self._count()
        token = self._peek()
        if self._take_word("exists"):
            self._expect_symbol("(")
            name = self._field()
            self._expect_symbol(")")
            return pb.Filter(exists=name)
        if token.kind in {"text", "number"} or token.text in {"true", "false", "timestamp"}:
            value = value_proto(self._value(), "filter")
            self._expect_word("in")
            return pb.Filter(contains=pb.Contains(field=self._field(), value=value))
        return self._about_field(self._field())

    def _about_field(self, name: str) -> pb.Filter:
        if self._take_word("in"):
            self._expect_symbol("(")
            values = [self._member()]
            while self._take_symbol(","):
                if len(values) == MAX_VALUES:
                    raise unfit("filter", f"expected at most {MAX_VALUES:,} values of {name[:_SHOWN]}, got more")
                values.append(self._member())
            self._expect_symbol(")")
            return pb.Filter(membership=pb.Membership(field=name, values=values))
        operator = _OPERATORS.get(self._peek().text)
        if operator is None or self._peek().kind != "symbol":
            raise self._unexpected('"==", "!=", "<", "<=", ">", ">=" or "in"')
        self._advance()
        value = value_proto(self._value(), "filter")
        return pb.Filter(comparison=pb.Comparison(field=name, operator=operator, value=value))

    def _field(self) -> str:
        token = self._peek()
        if token.kind == "quoted" or (token.kind == "name" and token.text not in _WORDS):
            self._advance()
            return token.text
        raise self._unexpected("the name of a field")

    def _member(self) -> MetadataValue:
        self._count()
        return value_proto(self._value(), "filter")

    def _value(self) -> Scalar:
        token = self._peek()
        if token.kind == "text":
            self._advance()
            return _unquoted(token.text)
        if token.kind == "number":
            self._advance()
            return float(token.text)
        if token.is_word("true") or token.is_word("false"):
            self._advance()
            return token.text == "true"
        if self._take_word("timestamp"):
            return self._timestamp()
        raise self._unexpected("a value: 'text', a number, true, false or timestamp('...')")

    def _timestamp(self) -> datetime:
        self._expect_symbol("(")
        token = self._peek()
        if token.kind != "text":
            raise self._unexpected("a time such as '2024-05-01T12:00:00Z'")
        try:
            moment = datetime.fromisoformat(_unquoted(token.text))
        except ValueError:
            raise self._unexpected("a time such as '2024-05-01T12:00:00Z'") from None
        self._advance()
        self._expect_symbol(")")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _count(self, more: int = 1) -> None:
        """Count conditions and values. Raises InvalidRequest if there are too many."""
        self._size += more
        if self._size > MAX_SIZE:
            raise unfit("filter", f"expected at most {MAX_SIZE:,} conditions and values in all, got more")

    def _peek(self) -> _Token:
        return self._token

    def _advance(self) -> None:
        self._token = next(self._tokens)

    def _take_word(self, word: str) -> bool:
        return self._take(self._peek().is_word(word))

    def _take_symbol(self, symbol: str) -> bool:
        return self._take(self._peek().kind == "symbol" and self._peek().text == symbol)

    def _take(self, is_there: bool) -> bool:
        if is_there:
            self._advance()
        return is_there

    def _expect_symbol(self, symbol: str) -> None:
        if not self._take_symbol(symbol):
            raise self._unexpected(f'"{symbol}"')

    def _expect_word(self, word: str) -> None:
        if not self._take_word(word):
            raise self._unexpected(f'"{word}"')

    def _unexpected(self, expected: str) -> Exception:
        token = self._peek()
        found = "the end" if token.kind == "end" else token.text[:_SHOWN]
        return unfit("filter", f"expected {expected} at column {token.column}, got {found}")


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the tokens of a text lazily, followed by one of kind `end`.

    Raises InvalidRequest for text that is not a token.
    """
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            rest = text[position:]
            start = position + len(rest) - len(rest.lstrip())
            raise unfit("filter", f"expected a name, value or operator at column {start + 1}, got {text[start:][:20]}")
        kind = match.lastgroup
        yield _Token(kind, match[kind], match.start(kind) + 1)
        position = match.end()
    yield _Token("end", "", end + 1)


def _unquoted(token: str) -> str:
    """Return the text in quotes. A backslash escapes the next character."""
    return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)


def _joined(parts: pb.FilterList, word: str) -> str:
    return word.join(_nested(part) for part in parts.filters)


def _nested(part: pb.Filter) -> str:
    """Return the text of an element of a list, in parentheses if it is a list itself."""
    text = to_text(part)
    return f"({text})" if part.WhichOneof("condition") in {"all_of", "any_of"} else text


def _field_text(name: str) -> str:
    return name if re.fullmatch(r"[^\W\d]\w*", name) and name not in _WORDS else f"`{name}`"


def _text(proto: MetadataValue) -> str:
    value = value_of(proto)
    match value:
        case str():
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{escaped}'"
        case bool():
            return "true" if value else "false"
        case datetime():
            return f"timestamp('{value.isoformat()}')"
    return repr(value).removesuffix(".0")
