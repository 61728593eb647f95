"""Every filter operator, compared with the same condition in Python."""

import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import filter_pb2 as pb_filter
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.conformance.engines import SHARED, Place, empty
from tests.support.retrieval import document, query, upsert, value

Metadata = dict[str, Any]
Case = tuple[str, pb_filter.Filter, Callable[[Metadata], bool]]

C: Final = pb_filter.Comparison
OPERATORS: Final = {
    C.OPERATOR_EQUAL: operator.eq,
    C.OPERATOR_NOT_EQUAL: operator.ne,
    C.OPERATOR_LESS: operator.lt,
    C.OPERATOR_LESS_OR_EQUAL: operator.le,
    C.OPERATOR_GREATER: operator.gt,
    C.OPERATOR_GREATER_OR_EQUAL: operator.ge,
}
# What could end a literal, or mean something in an expression.
NASTY: Final = [
    "",
    '"',
    "'",
    "\\",
    '\\"',
    '" or true or "',
    '" || exists Metadata["year"] || "',
    '"] == 1.0 or Metadata["year',
    "x\ny\r\t",
    "{year}",
    "%",
    "\\u0041",
    "\\n",
    "ÄÖ 漢字 😀",
    "\x01\x7f",
    "true",
    "1.0",
    "a" * 3000,
]
AUTHORS: Final = ["Anna", "Bob", "Zoë", "anna", "é", "😀"]
YEARS: Final = [-1e300, -2.5, 0.0, 1e-7, 1850.0, 1850.5, 2**53 + 2.0, 1e22]
MOMENTS: Final = [-62_135_596_800_000_000, -1, 0, 1, 1_700_000_000_123_456, 253_402_300_799_999_999]
LISTS: Final = [[], ["red"], ["red", "green"], ["gre"], [1.0, 2.5], [2.5]]


async def test_every_operator_finds_what_python_finds(place: Place) -> None:
    rng = np.random.default_rng(7)
    given = {f"{number:03}": _random(rng) for number in range(80)}
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        documents = [document(id_, **_sent(metadata)) for id_, metadata in given.items()]
        await stub.Upsert(upsert(documents, rng.standard_normal((len(given), 4)), collection=name))
        for said, condition, is_true in _cases():
            expected = [id_ for id_, metadata in given.items() if is_true(metadata)]
            request = pb.ListDocumentsRequest(collection=name, filter=condition, page_size=1000)
            found = [one.document_id for one in (await stub.ListDocuments(request)).documents]
            assert found == expected, said
        # The same condition in the other calls that have one.
        for said, condition, is_true in _cases()[::12]:
            expected = [id_ for id_, metadata in given.items() if is_true(metadata)]
            counted = await stub.CountDocuments(pb.CountDocumentsRequest(collection=name, filter=condition))
            assert counted.document_count == len(expected), said
            asked = pb.RetrieveRequest(collection=name, queries=[query([1, 2, 3, 4], depth=100)], filter=condition)
            ranking = (await stub.Retrieve(asked)).rankings[0]
            assert sorted(ranking.document_ids) == expected, said


async def test_values_cannot_inject_expressions(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        given = [document(f"{i:02}", author=text, tags=[text], year=1.0) for i, text in enumerate(NASTY)]
        await stub.Upsert(upsert(given, np.ones((len(given), 4)), collection=name))
        for i, text in enumerate(NASTY):
            filters = [
                pb_filter.Filter(comparison=C(field="author", operator=C.OPERATOR_EQUAL, value=value(text))),
                pb_filter.Filter(membership=pb_filter.Membership(field="author", values=[value(text)])),
                pb_filter.Filter(contains=pb_filter.Contains(field="tags", value=value(text))),
            ]
            for condition in filters:
                request = pb.ListDocumentsRequest(collection=name, filter=condition)
                found = [one.document_id for one in (await stub.ListDocuments(request)).documents]
                assert found == [f"{i:02}"], (text, condition)
        # Ids are literals too.
        ids = [text for text in NASTY if 0 < len(text) <= 512]
        await stub.Upsert(upsert([document(text) for text in ids], np.ones((len(ids), 4)), collection=name))
        got = await stub.GetDocuments(pb.GetDocumentsRequest(collection=name, document_ids=ids))
        assert [one.document_id for one in got.documents] == ids
        gone = await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name, document_ids=ids[:5]))
        assert gone.deleted_count == 5


async def test_a_list_with_true_contains_one_or_not(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        given = [document("one", tags=[1.0]), document("true", tags=[True])]
        await stub.Upsert(upsert(given, np.ones((2, 4)), collection=name))
        one = pb_filter.Filter(contains=pb_filter.Contains(field="tags", value=value(1.0)))
        found = await stub.ListDocuments(pb.ListDocumentsRequest(collection=name, filter=one))
        assert ([one.document_id for one in found.documents] == ["one"]) == place.can.true_is_not_one


def _random(rng: np.random.Generator) -> Metadata:
    choices: dict[str, list[Any]] = {
        "author": AUTHORS,
        "year": YEARS,
        "printed": [True, False],
        "added": MOMENTS,
        "tags": LISTS,
    }
    return {
        field: possible[int(rng.integers(len(possible)))] for field, possible in choices.items() if rng.random() < 0.75
    }


def _moment(us: int) -> doc.MetadataValue:
    moment = Timestamp()
    moment.FromMicroseconds(us)
    return doc.MetadataValue(timestamp_value=moment)


def _sent(metadata: Metadata) -> Metadata:
    return {name: _moment(given) if name == "added" else given for name, given in metadata.items()}


def _cases() -> list[Case]:
    leaves = [*_comparisons(), *_others()]
    return [*leaves, *_groups(leaves)]


def _comparisons() -> list[Case]:
    asked: dict[str, list[Any]] = {
        "author": ["Anna", "Zoë", "a", "nobody"],
        "year": [1850.0, 0.0, -1e300, 2**53 + 2.0],
        "printed": [True],
        "added": [-1, 1_700_000_000_123_456, 253_402_300_799_999_999],
    }
    cases = []
    for field, values in asked.items():
        for number, compare in OPERATORS.items():
            if field == "printed" and number not in {C.OPERATOR_EQUAL, C.OPERATOR_NOT_EQUAL}:
                continue
            for given in values:
                sent = _moment(given) if field == "added" else value(given)
                condition = pb_filter.Filter(comparison=C(field=field, operator=number, value=sent))
                cases.append((f"{field} {compare.__name__} {given}", condition, _compared(field, compare, given)))
    return cases


def _compared(field: str, compare: Callable[[Any, Any], bool], given: Any) -> Callable[[Metadata], bool]:
    return lambda metadata: field in metadata and compare(metadata[field], given)


def _has(field: str) -> Callable[[Metadata], bool]:
    return lambda metadata: field in metadata


def _others() -> list[Case]:
    cases: list[Case] = []
    memberships: dict[str, list[Any]] = {
        "author": ["Bob", "😀", "nobody"],
        "year": [1850.5, 1e-7, 3.0],
        "added": [0, 1],
        "printed": [False],
    }
    for field, values in memberships.items():
        sent = [_moment(given) if field == "added" else value(given) for given in values]
        condition = pb_filter.Filter(membership=pb_filter.Membership(field=field, values=sent))
        cases.append((f"{field} in {values}", condition, _compared(field, lambda held, asked: held in asked, values)))
    for element in ("red", "gre", "nothing", 2.5, 1.0):
        condition = pb_filter.Filter(contains=pb_filter.Contains(field="tags", value=value(element)))
        cases.append((f"{element} in tags", condition, _compared("tags", operator.contains, element)))
    for field in ("author", "year", "printed", "added", "tags"):
        cases.append((f"exists {field}", pb_filter.Filter(exists=field), _has(field)))
    return cases


def _groups(leaves: list[Case]) -> list[Case]:
    rng = np.random.default_rng(11)
    cases = list(leaves)
    for _ in range(30):
        picked = [cases[int(place)] for place in rng.integers(len(cases), size=3)]
        kind = ("all_of", "any_of", "none_of")[int(rng.integers(3))]
        condition = pb_filter.Filter()
        getattr(condition, kind).filters.extend(one for _, one, _ in picked)
        said = f"{kind}({', '.join(text for text, _, _ in picked)})"
        cases.append((said, condition, _grouped(kind, [is_true for _, _, is_true in picked])))
    return cases[len(leaves) :]


def _grouped(kind: str, conditions: list[Callable[[Metadata], bool]]) -> Callable[[Metadata], bool]:
    def decide(metadata: Metadata) -> bool:
        results = [is_true(metadata) for is_true in conditions]
        return all(results) if kind == "all_of" else any(results) == (kind == "any_of")

    return decide
