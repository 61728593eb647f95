"""Invalid requests get the same code, reason and field paths from every engine."""

from typing import Any

import numpy as np
from sluice.common.v1 import filter_pb2 as pb_filter
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.conformance.engines import SHARED, Place, empty
from tests.support.retrieval import Stub, document, error_of, query, upsert, value

C = pb_filter.Comparison


def _filter(field: str, given: Any, how: C.Operator.ValueType = C.OPERATOR_EQUAL) -> pb_filter.Filter:
    return pb_filter.Filter(comparison=C(field=field, operator=how, value=value(given)))


def _nested(depth: int) -> pb_filter.Filter:
    condition = _filter("year", 1)
    for _ in range(depth):
        condition = pb_filter.Filter(all_of=pb_filter.FilterList(filters=[condition]))
    return condition


def _calls(stub: Stub, name: str) -> list[tuple[Any, str]]:
    def retrieve(**changes: Any) -> Any:
        return stub.Retrieve(pb.RetrieveRequest(**{"collection": name, "queries": [query([1, 0, 0, 0])], **changes}))

    one = np.eye(4)[:1]
    return [
        (stub.Upsert(upsert([document("")], one, collection=name)), "documents[0].document_id"),
        (stub.Upsert(upsert([document("a")], [[1, 0]], collection=name)), "dense[0].vectors"),
        (stub.Upsert(upsert([document("a")], [[0, 0, 0, 0]], collection=name)), "dense[0].vectors"),
        (stub.Upsert(upsert([document("a")], [[np.inf, 0, 0, 0]], collection=name)), "dense[0].vectors"),
        (stub.Upsert(upsert([document("a", year="x")], one, collection=name)), "documents[0].metadata['year']"),
        (
            stub.Upsert(upsert([document("a"), document("a")], np.eye(4)[:2], collection=name)),
            "documents[1].document_id",
        ),
        (stub.Upsert(pb.UpsertRequest(collection=name, documents=[document("a")])), "dense"),
        (retrieve(queries=[query([1, 0])]), "queries[0].dense"),
        (retrieve(queries=[query([0, 0, 0, 0])]), "queries[0].dense"),
        (retrieve(queries=[query([1, 0, 0, 0], depth=1001)]), "queries[0].depth"),
        (retrieve(queries=[query([1, 0, 0, 0], field="other")]), "queries[0].field"),
        (retrieve(filter=_filter("undeclared", 1)), "filter.comparison.field"),
        (retrieve(filter=_filter("year", "x")), "filter.comparison.value"),
        (retrieve(filter=_filter("tags", "x")), "filter.comparison.field"),
        (retrieve(filter=_filter("printed", True, C.OPERATOR_LESS)), "filter.comparison.operator"),
        (retrieve(filter=_nested(32)), "filter" + 31 * ".all_of.filters[0]" + ".all_of"),
        (stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name)), "document_ids"),
        (stub.ListDocuments(pb.ListDocumentsRequest(collection=name, page_size=1025)), "page_size"),
        (stub.GetDocuments(pb.GetDocumentsRequest(collection=name)), "document_ids"),
    ]


async def test_invalid_requests_are_rejected_with_the_path_of_the_field(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        for call, path in _calls(stub, name):
            error = await error_of(call)
            assert isinstance(error, InvalidRequest), path
            assert (error.reason_name, [one.field for one in error.violations]) == ("INVALID_REQUEST", [path])
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection=name))).document_count == 0


async def test_the_largest_filter_is_accepted(place: Place) -> None:
    name = SHARED
    many = [value(f"author {number}") for number in range(1024)]

    async with place.stub() as stub:
        await empty(stub)
        given = [document("a", author="author 1023", year=1), document("b", author="nobody", year=2)]
        await stub.Upsert(upsert(given, np.eye(4)[:2], collection=name))
        wide = pb_filter.Filter(membership=pb_filter.Membership(field="author", values=many))
        years = [_filter("year", number) for number in range(255, -1, -1)]
        any_of = pb_filter.Filter(any_of=pb_filter.FilterList(filters=years))
        for condition, count in ((wide, 1), (any_of, 2), (_nested(31), 1)):
            counted = await stub.CountDocuments(pb.CountDocumentsRequest(collection=name, filter=condition))
            assert counted.document_count == count


async def test_a_text_of_the_maximum_length_is_stored_or_rejected(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        await stub.Upsert(upsert([document("a", "é" * 32_767)], np.eye(4)[:1], collection=name))
        longest = stub.Upsert(upsert([document("b", "x" * 65_536)], np.eye(4)[:1], collection=name))
        if place.can.longest_text:
            await longest
        else:
            error = await error_of(longest)
            assert isinstance(error, InvalidRequest)
            assert [one.field for one in error.violations] == ["documents[0].text"]
        got = await stub.GetDocuments(pb.GetDocumentsRequest(collection=name, document_ids=["a"]))
        assert got.documents[0].text == "é" * 32_767
