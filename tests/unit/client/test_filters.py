from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluice.client import filters, to_text, where
from sluice.client.documents import Scalar, value_proto
from sluice.common.v1.filter_pb2 import Comparison, Contains, Filter, FilterList, Membership
from sluice.errors import InvalidRequest

from services.retrieval.wire import filters as servers
from services.rpc.server.sizing import FILTER_BYTES_MAX


def compare(field: str, operator: Comparison.Operator.ValueType, value: Scalar) -> Filter:
    return Filter(comparison=Comparison(field=field, operator=operator, value=value_proto(value, "")))


def equal(field: str, value: Scalar) -> Filter:
    return compare(field, Comparison.OPERATOR_EQUAL, value)


def member(field: str, *values: Scalar) -> Filter:
    return Filter(membership=Membership(field=field, values=[value_proto(value, "") for value in values]))


def contains(field: str, value: Scalar) -> Filter:
    return Filter(contains=Contains(field=field, value=value_proto(value, "")))


def every(*parts: Filter) -> Filter:
    return Filter(all_of=FilterList(filters=parts))


def some(*parts: Filter) -> Filter:
    return Filter(any_of=FilterList(filters=parts))


def none(*parts: Filter) -> Filter:
    return Filter(none_of=FilterList(filters=parts))


A, B, C = equal("a", 1.0), equal("b", 2.0), equal("c", 3.0)
MAY = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a == 1", A),
        ("  a==1  ", A),
        ("a != 1", compare("a", Comparison.OPERATOR_NOT_EQUAL, 1.0)),
        ("a < -1.5e3", compare("a", Comparison.OPERATOR_LESS, -1500.0)),
        ("a <= .5", compare("a", Comparison.OPERATOR_LESS_OR_EQUAL, 0.5)),
        ("a > +1", compare("a", Comparison.OPERATOR_GREATER, 1.0)),
        ("a >= 1", compare("a", Comparison.OPERATOR_GREATER_OR_EQUAL, 1.0)),
        ("a == 'x y'", equal("a", "x y")),
        ('a == "it\'s"', equal("a", "it's")),
        (r"a == 'it\'s \\ here'", equal("a", "it's \\ here")),
        ("a == ''", equal("a", "")),
        ("a == true", equal("a", True)),
        ("a == timestamp('2024-05-01')", equal("a", MAY)),
        ("a == timestamp('2024-05-01T02:00:00+02:00')", equal("a", MAY)),
        ("a in ('x', 2, false)", member("a", "x", 2.0, False)),
        ("'x' in a", contains("a", "x")),
        ("true in a", contains("a", True)),
        ("timestamp('2024-05-01') in a", contains("a", MAY)),
        ("exists(a)", Filter(exists="a")),
        ("`and` == 1", equal("and", 1.0)),
        ("`two words` == 1", equal("two words", 1.0)),
        ("naïve == 1", equal("naïve", 1.0)),
        ("not a == 1", none(A)),
        ("not not a == 1", none(none(A))),
        ("a == 1 and b == 2 and c == 3", every(A, B, C)),
        ("a == 1 or b == 2 and c == 3", some(A, every(B, C))),
        ("(a == 1 or b == 2) and c == 3", every(some(A, B), C)),
        ("not (a == 1 or b == 2)", none(some(A, B))),
        ("not a == 1 and b == 2", every(none(A), B)),
        ("((a == 1))", A),
        ("a == 1\n  and b == 2", every(A, B)),
    ],
)
def test_where_parses(text: str, expected: Filter) -> None:
    assert where(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of a field at column 1, got the end"),
        ("year", 'expected "==", "!=", "<", "<=", ">", ">=" or "in" at column 5, got the end'),
        ("year >=", "expected a value: .* at column 8, got the end"),
        ("year >= x", "expected a value: .* at column 9, got x"),
        ("year ~ 1", "expected a name, value or operator at column 6, got ~ 1"),
        ("year == 12abc", "expected a name, value or operator at column 9, got 12abc"),
        ("year == 'open", "expected a name, value or operator at column 9, got 'open"),
        ("a == 1 b", 'expected "and", "or" or the end at column 8, got b'),
        ("(a == 1", r'expected "\)" at column 8, got the end'),
        ("a == 1)", r'expected "and", "or" or the end at column 7, got \)'),
        ("a in ()", r"expected a value: .* at column 7, got \)"),
        ("a in ('x'", r'expected "\)" at column 10, got the end'),
        ("a in 'x'", r'expected "\(" at column 6, got \'x\''),
        ("'x' == a", 'expected "in" at column 5, got =='),
        ("not", "expected the name of a field at column 4, got the end"),
        ("and == 1", "expected the name of a field at column 1, got and"),
        ("a == timestamp('soon')", "expected a time such as '2024-05-01T12:00:00Z' at column 16, got 'soon'"),
        ("a == timestamp(2024)", "expected a time such as"),
        ("(" * 33 + "a == 1" + ")" * 33, "expected at most 32 levels of nesting, got more"),
        ("not " * 10_000 + "a == 1", "expected at most 32 levels of nesting, got more"),
        ("(" * 100_000, "expected at most 32 levels of nesting, got more"),
        ("a == 1 or " * 256 + "a == 1", 'expected at most 256 conditions joined by "or", got more'),
        ("a == 1 and " * 256 + "a == 1", 'expected at most 256 conditions joined by "and", got more'),
        (f"a in ({', '.join(['1'] * 1025)})", "expected at most 1,024 values of a, got more"),
        (" or ".join([f"a in ({', '.join(['1'] * 1024)})"] * 8), "expected at most 8,192 conditions and values in all"),
        ("a" * 2_000_000, "expected at most 1,048,576 characters, got 2,000,000"),
        ("a == " + "1" * 100_000 + "x", "expected a name, value or operator at column 6, got 1{20}$"),
        ("a == " + "b" * 100_000, "expected a value: .*, got b{64}$"),
        ("a == 'x\ud800'", r"expected Unicode text, got the lone surrogate U\+D800 at character 8"),
        ("a == timestamp('0001-01-01T00:00:00+14:00')", "expected a time in the years 1 to 9999 in UTC, got 0001"),
        ("a == timestamp('9999-12-31T23:59:59-14:00')", "expected a time in the years 1 to 9999 in UTC, got 9999"),
    ],
)
def test_where_rejects(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        where(text)
    assert [violation.field for violation in caught.value.violations] == ["filter"]


def test_nesting_up_to_the_limit_is_accepted() -> None:
    assert where("(" * 31 + "a == 1" + ")" * 31) == A


def test_limits_are_those_of_the_servers() -> None:
    assert (filters.MAX_DEPTH, filters.MAX_SIZE, filters.MAX_BYTES) == (
        servers.DEPTH_MAX,
        servers.SIZE_MAX,
        FILTER_BYTES_MAX,
    )
    assert (filters.MAX_CONDITIONS, filters.MAX_VALUES) == (servers.CONDITIONS_MAX, servers.VALUES_MAX)


def test_text_of_an_empty_filter_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="expected a condition, got none"):
        to_text(Filter())


names = st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]), min_size=1, max_size=8)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(texts, st.floats(allow_nan=False, allow_infinity=False), st.booleans(), moments)
operators = st.sampled_from([operator for operator in Comparison.Operator.values() if operator])
conditions = st.one_of(
    st.builds(compare, names, operators, scalars),
    st.builds(lambda name, values: member(name, *values), names, st.lists(scalars, min_size=1, max_size=3)),
    st.builds(contains, names, scalars),
    st.builds(lambda name: Filter(exists=name), names),
)


def combined(parts: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(parts, min_size=2, max_size=3)
    return st.one_of(several.map(lambda p: every(*p)), several.map(lambda p: some(*p)), parts.map(none))


@given(st.recursive(conditions, combined, max_leaves=8))
def test_text_of_a_filter_parses_to_the_same_filter(condition: Filter) -> None:
    assert where(to_text(condition)) == condition


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    with suppress(InvalidRequest):
        assert where(text).WhichOneof("condition")
