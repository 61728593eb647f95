"""Requests that the retrieval service rejects, with the fields in the error. They change nothing."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import filter_pb2 as flt
from sluice.common.v1 import tensor_pb2 as tns
from sluice.errors import InvalidRequest, NotFound, QuotaExceeded
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from tests.support.retrieval import (
    Stub,
    channel_to_retrieval,
    document,
    error_of,
    new_collection,
    query,
    retrieval_stub,
    upsert,
    value,
)

ONES = np.ones((1, 4), dtype=np.float32)


def dense(**changes: Any) -> pb.DenseField:
    return pb.DenseField(**{"name": "dense", "dimensions": 4, **changes})


def schema(*dense_fields: pb.DenseField, metadata: tuple[tuple[str, Any], ...] = ()) -> Any:
    fields = [pb.MetadataField(name=name, type=type_) for name, type_ in metadata]
    return pb.Schema(dense_fields=dense_fields, metadata_fields=fields)


def create(name: str, **changes: Any) -> pb.CreateCollectionRequest:
    return pb.CreateCollectionRequest(**{"name": name, "schema": schema(dense()), **changes})


STRING = pb.METADATA_TYPE_STRING

BAD_CREATES = [
    (create(""), ["name"]),
    (create("Big"), ["name"]),
    (create("a" * 129), ["name"]),
    (create("a/../b"), ["name"]),
    (create("x", schema=schema()), ["schema"]),
    (create("x", schema=schema(*[dense(name=f"d{i}") for i in range(9)])), ["schema"]),
    (create("x", schema=schema(dense(dimensions=0))), ["schema.dense_fields[0].dimensions"]),
    (create("x", schema=schema(dense(dimensions=8193))), ["schema.dense_fields[0].dimensions"]),
    (create("x", schema=schema(dense(name="1a"))), ["schema.dense_fields[0].name"]),
    (create("x", schema=schema(dense(metric=9))), ["schema.dense_fields[0].metric"]),
    (create("x", schema=schema(dense(model_digest="d" * 129))), ["schema.dense_fields[0].model_digest"]),
    (create("x", schema=schema(dense(), metadata=(("dense", STRING),))), ["schema.metadata_fields[0].name"]),
    (create("x", schema=schema(dense(), metadata=(("kind", 0),))), ["schema.metadata_fields[0].type"]),
    (
        create("x", schema=schema(dense(), metadata=tuple((f"m{i}", STRING) for i in range(65)))),
        ["schema.metadata_fields"],
    ),
    (create("", schema=schema(dense(name="", dimensions=-1))),
     ["name", "schema.dense_fields[0].name", "schema.dense_fields[0].dimensions"]),
]  # fmt: skip

NAN = np.array([[1, 2, math.nan, 4]], dtype=np.float32)
ONE_LIST = doc.MetadataValue(list_value=doc.MetadataList(values=[value([1.0])]))
MOMENT = doc.MetadataValue(timestamp_value=Timestamp(seconds=1))

BAD_UPSERTS = [
    (upsert([], np.zeros((0, 4))), ["documents"]),
    (upsert([document(f"{i}") for i in range(1025)], np.ones((1025, 4))), ["documents"]),
    (upsert([document("a"), document("b"), document("a")], np.ones((3, 4))), ["documents[2].document_id"]),
    (upsert([document("")], ONES), ["documents[0].document_id"]),
    (upsert([document("é" * 257)], ONES), ["documents[0].document_id"]),
    (upsert([document("a\0b")], ONES), ["documents[0].document_id"]),
    (upsert([document("a", "x" * 65_537)], ONES), ["documents[0].text"]),
    (upsert([doc.Document(document_id="a", title="x" * 4097)], ONES), ["documents[0].title"]),
    (upsert([document("a", "text", **{f"k{i}": 1 for i in range(65)})], ONES), ["documents[0].metadata"]),
    (upsert([document("a", note="x" * 16_385)], ONES), ["documents[0].metadata"]),
    (upsert([document("a", year="1999")], ONES), ["documents[0].metadata['year']"]),
    (upsert([document("a", year=math.inf)], ONES), ["documents[0].metadata['year']"]),
    (upsert([document("a", free=doc.MetadataValue())], ONES), ["documents[0].metadata['free']"]),
    (upsert([document("a", tags=["x", 1.0])], ONES), ["documents[0].metadata['tags']"]),
    (upsert([document("a", tags=[ONE_LIST])], ONES), ["documents[0].metadata['tags'].list_value.values[0]"]),
    (upsert([document("a", free=[MOMENT])], ONES), ["documents[0].metadata['free']"]),
    (
        upsert([document("a", added=doc.MetadataValue(timestamp_value=Timestamp(seconds=1 << 40)))], ONES),
        ["documents[0].metadata['added']"],
    ),
    (upsert([document("a")], np.ones((1, 5))), ["dense[0].vectors"]),
    (upsert([document("a")], np.ones((2, 4))), ["dense[0].vectors"]),
    (upsert([document("a")], np.ones(4)), ["dense[0].vectors"]),
    (upsert([document("a")], NAN), ["dense[0].vectors"]),
    (upsert([document("a")], ONES * np.float32(math.inf)), ["dense[0].vectors"]),
    (upsert([document("a")], ONES * 0), ["dense[0].vectors"]),
    (upsert([document("a")], ONES * 1e30), ["dense[0].vectors"]),
    (upsert([document("a")], ONES, dense=[]), ["dense"]),
    (upsert([document("a")], ONES, dense=[pb.DenseColumn(field="other")]), ["dense[0].field", "dense"]),
    (upsert([document("a")], ONES, content_hashes=["1", "2"]), ["content_hashes"]),
    (upsert([document("a")], ONES, content_hashes=["1" * 129]), ["content_hashes[0]"]),
    (upsert([document(""), document("b", year=True)], NAN),
     ["documents[0].document_id", "documents[1].metadata['year']", "dense[0].vectors"]),
]  # fmt: skip

FLOAT16 = tns.Tensor(data_type=tns.DATA_TYPE_FLOAT16, shape=[4], data=bytes(8))
SHORT = tns.Tensor(data_type=tns.DATA_TYPE_FLOAT32, shape=[4], data=bytes(15))

BAD_QUERIES = [
    ([], ["queries"]),
    ([query([1, 0, 0, 0])] * 17, ["queries"]),
    ([query([1, 0, 0])], ["queries[0].dense"]),
    ([query([1, 0, 0, math.nan])], ["queries[0].dense"]),
    ([query([0, 0, 0, 0])], ["queries[0].dense"]),
    ([query([1e20, 0, 0, 0])], ["queries[0].dense"]),
    ([pb.FieldQuery(depth=1)], ["queries[0].dense"]),
    ([pb.FieldQuery(depth=1, dense=FLOAT16)], ["queries[0].dense"]),
    ([pb.FieldQuery(depth=1, dense=SHORT)], ["queries[0].dense"]),
    ([query([1, 0, 0, 0], depth=0)], ["queries[0].depth"]),
    ([query([1, 0, 0, 0], depth=-1)], ["queries[0].depth"]),
    ([query([1, 0, 0, 0], depth=1001)], ["queries[0].depth"]),
    ([query([1, 0, 0, 0], field="nope")], ["queries[0].field"]),
    ([query([1, 0, 0, 0]), query([1], depth=0)], ["queries[1].depth", "queries[1].dense"]),
]

Op = flt.Comparison


def compare(field: str, given: Any, how: Any = Op.OPERATOR_EQUAL) -> flt.Filter:
    return flt.Filter(comparison=flt.Comparison(field=field, operator=how, value=value(given)))


def nested(depth: int) -> flt.Filter:
    condition = compare("year", 1)
    for _ in range(depth - 1):
        condition = flt.Filter(none_of=flt.FilterList(filters=[condition]))
    return condition


def all_of(*filters: flt.Filter) -> flt.Filter:
    return flt.Filter(all_of=flt.FilterList(filters=filters))


BAD_FILTERS = [
    (flt.Filter(), ["filter"]),
    (compare("nope", 1), ["filter.comparison.field"]),
    (compare("year", "1999"), ["filter.comparison.value"]),
    (compare("year", math.nan), ["filter.comparison.value"]),
    (compare("year", doc.MetadataValue()), ["filter.comparison.value"]),
    (compare("year", [1]), ["filter.comparison.value"]),
    (compare("year", 1, Op.OPERATOR_UNSPECIFIED), ["filter.comparison.operator"]),
    (compare("printed", True, Op.OPERATOR_LESS), ["filter.comparison.operator"]),
    (compare("tags", "x"), ["filter.comparison.field"]),
    (flt.Filter(membership=flt.Membership(field="year")), ["filter.membership.values"]),
    (
        flt.Filter(membership=flt.Membership(field="year", values=[value(1), value("2")])),
        ["filter.membership.values[1]"],
    ),
    (flt.Filter(membership=flt.Membership(field="year", values=[value(1)] * 1025)), ["filter.membership.values"]),
    (flt.Filter(contains=flt.Contains(field="year", value=value(1))), ["filter.contains.field"]),
    (flt.Filter(contains=flt.Contains(field="tags")), ["filter.contains.value"]),
    (flt.Filter(exists="nope"), ["filter.exists"]),
    (all_of(), ["filter.all_of.filters"]),
    (all_of(*[compare("year", 1)] * 257), ["filter.all_of.filters"]),
    (
        all_of(compare("year", 1), compare("nope", 1), flt.Filter(any_of=flt.FilterList(filters=[flt.Filter()]))),
        ["filter.all_of.filters[1].comparison.field", "filter.all_of.filters[2].any_of.filters[0]"],
    ),
    (nested(33), ["filter" + ".none_of.filters[0]" * 31 + ".none_of"]),
]


async def fields_of(call: Any) -> list[str]:
    """Return the fields that an InvalidRequest names."""
    error = await error_of(call)
    assert isinstance(error, InvalidRequest), error
    assert all(" got " in violation.description for violation in error.violations)
    return [violation.field for violation in error.violations]


async def test_invalid_schemas_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        for request, fields in BAD_CREATES:
            assert await fields_of(stub.CreateCollection(request)) == fields
        assert not (await stub.ListCollections(pb.ListCollectionsRequest())).collections


async def test_invalid_documents_and_vectors_are_rejected_and_change_nothing(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        await stub.Upsert(upsert([document("a")], ONES))
        before = await stub.GetCollection(pb.GetCollectionRequest(name="books"))
        for request, fields in BAD_UPSERTS:
            assert await fields_of(stub.Upsert(request)) == fields
        assert await stub.GetCollection(pb.GetCollectionRequest(name="books")) == before


async def test_invalid_queries_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        for queries, fields in BAD_QUERIES:
            request = pb.RetrieveRequest(collection="books", queries=queries)
            assert await fields_of(stub.Retrieve(request)) == fields
        view = pb.RetrieveRequest(collection="books", queries=[query([1, 0, 0, 0])], view=7)  # type: ignore[arg-type]
        assert await fields_of(stub.Retrieve(view)) == ["view"]


async def test_invalid_filters_are_rejected_by_every_rpc(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        queries = [query([1, 0, 0, 0])]
        for bad, fields in BAD_FILTERS:
            for call in (
                stub.Retrieve(pb.RetrieveRequest(collection="books", queries=queries, filter=bad)),
                stub.CountDocuments(pb.CountDocumentsRequest(collection="books", filter=bad)),
                stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", filter=bad)),
            ):
                assert await fields_of(call) == fields
        await stub.CountDocuments(pb.CountDocumentsRequest(collection="books", filter=nested(32)))


async def test_invalid_ids_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        condition = compare("year", 1)
        for ids, fields in (
            (["a"] * 1025, ["document_ids"]),
            (["a", "", "x" * 513, "a\0b"], ["document_ids[1]", "document_ids[2]", "document_ids[3]"]),
        ):
            get = pb.GetDocumentsRequest(collection="books", document_ids=ids)
            delete = pb.DeleteDocumentsRequest(collection="books", document_ids=ids)
            assert await fields_of(stub.GetDocuments(get)) == fields
            assert await fields_of(stub.DeleteDocuments(delete)) == fields
        assert await fields_of(stub.GetDocuments(pb.GetDocumentsRequest(collection="books"))) == ["document_ids"]
        neither = pb.DeleteDocumentsRequest(collection="books")
        assert await fields_of(stub.DeleteDocuments(neither)) == ["document_ids"]
        both = pb.DeleteDocumentsRequest(collection="books", document_ids=["a"], filter=condition)
        assert await fields_of(stub.DeleteDocuments(both)) == ["filter"]


async def test_many_violations_fit_into_one_error(tmp_path: Path) -> None:
    """gRPC rejects metadata above 8 KiB, and the caller would get another error."""

    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        error = await error_of(stub.Upsert(upsert([document("") for _ in range(1024)], np.ones((1024, 4)))))
        assert isinstance(error, InvalidRequest)
        assert error.message.endswith("(and 2046 more)")
        assert 10 < len(error.violations) < 100
        long = await error_of(stub.GetCollection(pb.GetCollectionRequest(name="x" * 20_000)))
        assert isinstance(long, NotFound)


async def test_an_unknown_collection_is_not_found_by_any_rpc(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        for call in (
            stub.GetCollection(pb.GetCollectionRequest(name="nope")),
            stub.DropCollection(pb.DropCollectionRequest(name="nope")),
            stub.Upsert(upsert([document("a")], ONES, collection="nope")),
            stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="nope", document_ids=["a"])),
            stub.GetDocuments(pb.GetDocumentsRequest(collection="nope", document_ids=["a"])),
            stub.CountDocuments(pb.CountDocumentsRequest(collection="nope")),
            stub.Retrieve(pb.RetrieveRequest(collection="nope", queries=[query([1, 0, 0, 0])])),
        ):
            error = await error_of(call)
            assert isinstance(error, NotFound)
            assert error.reason_name == "UNKNOWN_COLLECTION"
            assert error.metadata == {"collection": "nope"}


async def test_too_many_collections_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, max_collections=1) as stub:
        await stub.CreateCollection(new_collection("a"))
        assert isinstance(await error_of(stub.CreateCollection(new_collection("b"))), QuotaExceeded)
        await stub.CreateCollection(new_collection("a"))


async def test_a_message_over_the_limit_is_rejected_and_does_not_harm_the_server(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, max_message_bytes=2**16) as stub:
        await stub.CreateCollection(new_collection())
        large = upsert([document(f"{i}", "x" * 65_000) for i in range(2)], np.ones((2, 4)))
        assert isinstance(await error_of(stub.Upsert(large)), QuotaExceeded)
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection="books"))).document_count == 0


async def test_a_filter_nested_ten_thousand_deep_does_not_harm_the_server(tmp_path: Path) -> None:
    """protobuf neither decodes nor builds such a message, so the bytes are encoded here."""
    condition = nested(1).SerializeToString()
    for _ in range(10_000):
        condition = tagged(3, tagged(1, condition))
    request = pb.CountDocumentsRequest(collection="books").SerializeToString() + tagged(2, condition)

    async with channel_to_retrieval(tmp_path) as channel:
        stub: Stub = RetrievalServiceStub(channel)
        await stub.CreateCollection(new_collection())
        call: Any = channel.unary_unary("/sluice.retrieval.v1.RetrievalService/CountDocuments")
        assert await error_of(call(request))
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection="books"))).document_count == 0


def tagged(number: int, content: bytes) -> bytes:
    """Return a length-delimited field as protobuf encodes it."""
    length, size = bytearray(), len(content)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


@pytest.mark.parametrize("name", ["max_waiting_writes", "search_threads", "max_depth"])
def test_settings_out_of_range_are_rejected(tmp_path: Path, name: str) -> None:
    from pydantic import ValidationError

    from services.retrieval.settings import RetrievalSettings

    with pytest.raises(ValidationError, match=name):
        RetrievalSettings(data=tmp_path, **{name: 0})  # type: ignore[arg-type]


def many_fields() -> Any:
    return schema(*[dense(name=f"d{i}", metric=9) for i in range(100_000)])


def with_list(count: int) -> doc.Document:
    return document("a", tags=["t"] * count)


TOO_MANY: list[tuple[str, Callable[[], Any], list[str]]] = [
    ("CreateCollection", lambda: create("x", schema=many_fields()), ["schema"]),
    ("Upsert", lambda: upsert([doc.Document()] * 100_000, ONES), ["documents"]),
    ("Upsert", lambda: upsert([document("a")], ONES, content_hashes=["x" * 129] * 100_000), ["content_hashes"]),
    ("Upsert", lambda: upsert([with_list(100_000)], ONES), ["documents[0].metadata"]),
    ("GetDocuments", lambda: pb.GetDocumentsRequest(collection="books", document_ids="a" * 100_000), ["document_ids"]),
    ("Retrieve", lambda: pb.RetrieveRequest(collection="books", queries=[query([1, 0, 0, 0])] * 17), ["queries"]),
    ("ListDocuments", lambda: pb.ListDocumentsRequest(collection="books", page_token="a\0b"), ["page_token"]),
    ("ListDocuments", lambda: pb.ListDocumentsRequest(collection="books", page_token="a" * 10_000_000), ["page_token"]),
    ("GetCollection", lambda: pb.GetCollectionRequest(name="x" * 10_000_000), []),
    ("DropCollection", lambda: pb.DropCollectionRequest(name="a\0b"), []),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(TOO_MANY)))
async def test_values_far_over_a_limit_are_rejected_by_count(tmp_path: Path, number: int) -> None:
    method, request, fields = TOO_MANY[number]

    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        error = await error_of(getattr(stub, method)(request()))
        assert isinstance(error, InvalidRequest if fields else NotFound)
        if isinstance(error, InvalidRequest):
            assert [violation.field for violation in error.violations] == fields
