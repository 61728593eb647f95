"""Filters as expressions of Milvus: each value is one literal, each condition first tests that the field exists."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.domain.documents import Scalar, Timestamp
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
from services.retrieval.domain.schema import Kind, MetadataField, Schema
from services.retrieval.milvus.expressions import Expressions, both, ids_in, literal
from services.retrieval.milvus.rows import words
from services.retrieval.milvus.version import MilvusVersion, parse_version

SCHEMA = Schema(
    metadata=tuple(
        MetadataField(name=name, kind=kind)
        for name, kind in (
            ("author", Kind.STRING),
            ("year", Kind.NUMBER),
            ("printed", Kind.BOOL),
            ("added", Kind.TIMESTAMP),
            ("tags", Kind.LIST),
        )
    )
)
YEAR = Comparison("year", Operator.LESS, 1900.0)
YEAR_SAYS = '(exists Metadata["year"]) and (Metadata["year"] < 1900.0)'


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, ""),
        (YEAR, YEAR_SAYS),
        (Comparison("printed", Operator.EQUAL, True), '(exists Metadata["printed"]) and (Metadata["printed"] == true)'),
        (
            Comparison("added", Operator.NOT_EQUAL, Timestamp(-5)),
            '(exists Metadata["added"]["us"]) and (Metadata["added"]["us"] != -5)',
        ),
        (
            Membership("author", ("a", 'b"')),
            '(exists Metadata["author"]) and (Metadata["author"] in ["a", "b\\""])',
        ),
        (Contains("tags", 1.0), '(exists Metadata["tags"]) and (json_contains(Metadata["tags"], 1.0))'),
        (Contains("tags", Timestamp(1)), 'Id == ""'),
        (Exists("added"), 'exists Metadata["added"]["us"]'),
        (AllOf((YEAR,)), f"({YEAR_SAYS})"),
        (AnyOf((YEAR, YEAR)), f"(({YEAR_SAYS}) or ({YEAR_SAYS}))"),
        (NoneOf((YEAR, YEAR)), f"not ((({YEAR_SAYS}) or ({YEAR_SAYS})))"),
    ],
)
def test_expression_of_a_filter(condition: Filter | None, expected: str) -> None:
    assert Expressions(SCHEMA, has_membership=True).of(condition) == expected


def test_membership_without_support_in_json() -> None:
    condition = Membership("year", (1.0, 2.0, 3.0))
    expected = '((Metadata["year"] == 1.0) or ((Metadata["year"] == 2.0) or (Metadata["year"] == 3.0)))'
    assert Expressions(SCHEMA, has_membership=False).of(condition) == f'(exists Metadata["year"]) and ({expected})'


def test_many_conditions_have_little_nesting() -> None:
    wide = Expressions(SCHEMA, has_membership=False).of(AnyOf((YEAR,) * 256))
    depth = deepest = 0
    for character in wide:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert deepest < 16


@pytest.fixture(scope="module")
def tokens() -> Any:
    """Return the module of Milvus Lite that parses expressions."""
    return import_module("milvus_lite.search.filter.tokens")


@pytest.mark.slow
@given(value=st.one_of(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_a_literal_is_one_token_with_the_value(tokens: Any, value: Scalar) -> None:
    read = [one for one in tokens.tokenize(literal(value)) if one.kind is not tokens.TokenKind.EOF]
    negative = len(read) == 2 and read[0].kind is tokens.TokenKind.SUB
    assert len(read) == 1 + negative
    assert (-read[1].value if negative else read[0].value) == value


@pytest.mark.slow
@given(ids=st.lists(st.text(), min_size=1, max_size=3))
def test_a_list_of_ids_has_as_many_literals_as_ids(tokens: Any, ids: list[str]) -> None:
    read = tokens.tokenize(ids_in(ids))
    assert [one.value for one in read if one.kind is tokens.TokenKind.STRING] == ids


def test_both_and_words() -> None:
    assert (both("a", ""), both("", "b"), both("a", "b"), both("", "")) == ("a", "b", "(a) and (b)", "")
    keys = np.array([-1, 0, 7, 2**62], dtype=np.int64)
    made = words(keys).split(" ")
    assert len(set(made)) == 4
    assert all(len(word) == 13 and word.isalnum() and word == word.lower() for word in made)


@pytest.mark.parametrize(
    ("text", "version", "sparse"),
    [
        ("v2.3.5-lite", MilvusVersion((2, 3), is_lite=False), False),
        ("2.5.27", MilvusVersion((2, 5), is_lite=False), True),
        ("milvus_lite-3.2.2", MilvusVersion((3, 2), is_lite=True), True),
        ("something else", MilvusVersion((99, 0), is_lite=False), True),
    ],
)
def test_versions(text: str, version: MilvusVersion, sparse: bool) -> None:
    assert parse_version(text) == version
    assert version.has_sparse == sparse
