"""Filters over columns equal a naive evaluation of each document, also after columns were split and joined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.domain.documents import Timestamp, Value, from_json, kind_of, to_json
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
from services.retrieval.domain.schema import Kind
from services.retrieval.embedded.index.columns import COMPARE, Column, column_of
from services.retrieval.embedded.index.filter_masks import evaluate

VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STRING: st.sampled_from(["", "a", "b", "é", "z", "𝄞", "\uffff"]),
    Kind.NUMBER: st.sampled_from([-1.0, 0.0, 1.0, 2.5, 2.0**53, 5e-324]),
    Kind.BOOL: st.booleans(),
    Kind.TIMESTAMP: st.sampled_from([Timestamp(-1), Timestamp(0), Timestamp(2**53 + 1), Timestamp(2**53)]),
}
SCALARS = st.one_of(VALUES[Kind.STRING], VALUES[Kind.NUMBER], VALUES[Kind.BOOL])
LISTS = st.one_of(*(st.lists(VALUES[kind], max_size=4).map(tuple) for kind in (Kind.STRING, Kind.NUMBER, Kind.BOOL)))
DOCUMENTS = st.lists(
    st.fixed_dictionaries({}, optional={**{str(kind): values for kind, values in VALUES.items()}, "list": LISTS}),
    max_size=20,
)
COMPARISONS = st.one_of(
    *(st.builds(Comparison, st.just(str(kind)), st.sampled_from(Operator), values) for kind, values in VALUES.items())
)
MEMBERSHIPS = st.one_of(
    *(
        st.builds(Membership, st.just(str(kind)), st.lists(values, min_size=1, max_size=3).map(tuple))
        for kind, values in VALUES.items()
    )
)
LEAVES = st.one_of(
    COMPARISONS, MEMBERSHIPS, st.builds(Contains, st.just("list"), SCALARS), st.builds(Exists, st.sampled_from(Kind))
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda group, conditions: group(conditions),
        st.sampled_from([AllOf, AnyOf, NoneOf]),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


def naive(condition: Filter, document: dict[str, Value]) -> bool:
    """Return whether the condition is true of one document, by the rules of the API."""
    if isinstance(condition, AllOf | AnyOf | NoneOf):
        inner = [naive(one, document) for one in condition.conditions]
        return all(inner) if isinstance(condition, AllOf) else any(inner) == isinstance(condition, AnyOf)
    if condition.field not in document:
        return False
    return isinstance(condition, Exists) or naive_value(condition, document[condition.field])


def naive_value(condition: Comparison | Membership | Contains, value: Value) -> bool:
    """Return whether the condition is true of the value."""
    match condition:
        case Comparison(_, how, other):
            return bool(COMPARE[how](value, other))
        case Membership(_, others):
            return value in others
        case Contains(_, element):
            assert isinstance(value, tuple)
            return any(kind_of(one) is kind_of(element) and one == element for one in value)


def columns_of(documents: Sequence[dict[str, Value]]) -> dict[str, Column]:
    return {str(kind): column_of(kind, [document.get(kind) for document in documents]) for kind in Kind}


@settings(max_examples=300)
@given(DOCUMENTS, FILTERS)
def test_a_filter_is_true_where_it_is_true_of_the_document(
    documents: list[dict[str, Value]], condition: Filter
) -> None:
    expected = [naive(condition, document) for document in documents]
    assert evaluate(condition, columns_of(documents), lambda: None).tolist() == expected


@settings(max_examples=300)
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), FILTERS, st.randoms(use_true_random=False))
def test_cutting_and_joining_columns_changes_nothing(
    blocks: list[list[dict[str, Value]]], condition: Filter, random: Any
) -> None:
    kept = [sorted(random.sample(range(len(block)), random.randint(0, len(block)))) for block in blocks]
    cut = [columns_of(block) for block in blocks]
    joined: dict[str, Column] = {
        name: type(first).concatenate(
            [part[name].take(np.array(places, dtype=np.int64)) for part, places in zip(cut, kept, strict=True)]
        )
        for name, first in cut[0].items()
    }
    documents = [block[place] for block, places in zip(blocks, kept, strict=True) for place in places]
    assert evaluate(condition, joined, lambda: None).tolist() == [naive(condition, document) for document in documents]


@given(st.dictionaries(st.text(max_size=5), st.one_of(SCALARS, LISTS, VALUES[Kind.TIMESTAMP]), max_size=5))
def test_stored_metadata_is_read_unchanged(metadata: dict[str, Value]) -> None:
    back = from_json(to_json(metadata))
    assert back == metadata
    assert [kind_of(value) for value in back.values()] == [kind_of(value) for value in metadata.values()]


CASES = [
    (Comparison("string", Operator.LESS, "b"), [True, False, False]),
    (Comparison("string", Operator.NOT_EQUAL, "a"), [False, True, False]),
    (NoneOf((Comparison("string", Operator.EQUAL, "a"),)), [False, True, True]),
    (Contains("list", 1.0), [True, False, False]),
    (Contains("list", True), [False, True, False]),
    (Membership("string", ("b", "c")), [False, True, False]),
    (Exists("list"), [True, True, False]),
]


@pytest.mark.parametrize(("condition", "expected"), CASES)
def test_absent_fields_and_types_are_distinguished(condition: Filter, expected: list[bool]) -> None:
    documents: list[dict[str, Value]] = [{"string": "a", "list": (1.0,)}, {"string": "b", "list": (True,)}, {}]
    assert evaluate(condition, columns_of(documents), lambda: None).tolist() == expected


class Stop(Exception):
    pass


def test_each_condition_checks_for_cancellation() -> None:
    many = AnyOf(tuple(AllOf((Exists("bool"), Membership("number", (1.0, 2.0)))) for _ in range(10)))
    columns = columns_of([{"number": 1.0}, {"bool": True}])
    left = 15

    def check() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    with pytest.raises(Stop):
        evaluate(many, columns, check)
    left = 21
    assert evaluate(many, columns, check).tolist() == [False, False]
    assert left == 1
