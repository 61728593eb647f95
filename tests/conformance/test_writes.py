"""Writes insert or replace, are atomic, and are visible to the next read."""

from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import filter_pb2
from sluice.errors import InvalidRequest, PreconditionFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.conformance.engines import SHARED, Place, empty, new_name
from tests.support.retrieval import Stub, document, error_of, new_collection, query, upsert

AXES = np.eye(4, dtype=np.float32)


async def listed(stub: Stub, name: str) -> list[str]:
    found = await stub.ListDocuments(pb.ListDocumentsRequest(collection=name, page_size=1000))
    return [one.document_id for one in found.documents]


async def test_upsert_inserts_replaces_and_keeps_everything(place: Place) -> None:
    name = SHARED
    moment = doc.MetadataValue(timestamp_value=Timestamp(seconds=-5_000_000_000, nanos=123_456_000))
    full = document(
        "ä/😀 \"'\\",
        'Ünïcode\n\t"quoted" \\ 😀',
        author="Ärger",
        year=1850.5,
        printed=False,
        added=moment,
        tags=["a", 'b"'],
        undeclared={"x": 1}.get("y", 7.0),
        **{"any key: ü": [1.0, 2.5]},
    )

    async with place.stub() as stub:
        await empty(stub)
        first = upsert([document("a"), full], AXES[:2], collection=name, content_hashes=["1", "2"])
        done = await stub.Upsert(first)
        assert (done.inserted_count, done.replaced_count) == (2, 0)
        again = await stub.Upsert(first)
        assert (again.inserted_count, again.replaced_count) == (0, 2)
        changed = document("a", "changed", year=1.0)
        mixed = await stub.Upsert(upsert([document("c"), changed], AXES[1:3], collection=name))
        assert (mixed.inserted_count, mixed.replaced_count) == (1, 1)
        versions = [done.version, again.version, mixed.version]
        assert versions == sorted(set(versions))
        assert (versions == [1, 2, 3]) == place.can.small_versions
        ids = ["c", full.document_id, "nowhere", "a"]
        got = await stub.GetDocuments(pb.GetDocumentsRequest(collection=name, document_ids=ids))
        assert list(got.documents) == [document("c"), full, changed]
        assert list(got.content_hashes) == ["", "2", ""]
        found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query(AXES[2], depth=1)]))
        assert list(found.documents) == [changed]
        assert found.collection_version == mixed.version
        described = (await stub.GetCollection(pb.GetCollectionRequest(name=name))).collection
        assert (described.document_count, described.version) == (3, mixed.version)


async def test_a_request_with_one_invalid_document_writes_none(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        await stub.Upsert(upsert([document("a")], AXES[:1], collection=name))
        bad: list[pb.UpsertRequest] = [
            upsert([document("b"), document("c", year="a word")], AXES[:2], collection=name),
            upsert([document("b"), document("b")], AXES[:2], collection=name),
            upsert([document("b"), document("c")], AXES[:2] * [[1], [0]], collection=name),
            upsert([document("b"), document("c")], AXES[:2] * [[1], [np.nan]], collection=name),
            upsert([document("b"), document("c")], AXES[:1], collection=name),
            upsert([document("b"), document("x" * 513)], AXES[:2], collection=name),
        ]
        for request in bad:
            assert isinstance(await error_of(stub.Upsert(request)), InvalidRequest)
        assert await listed(stub, name) == ["a"]


async def test_delete_by_ids_and_by_filter(place: Place) -> None:
    name = SHARED
    old = filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field="year", operator=filter_pb2.Comparison.OPERATOR_LESS, value=doc.MetadataValue(number_value=1900)
        )
    )

    async with place.stub() as stub:
        await empty(stub)
        given = [document(str(i), year=1897 + i) for i in range(6)]
        written = await stub.Upsert(upsert(given, np.ones((6, 4)), collection=name))
        by_ids = pb.DeleteDocumentsRequest(collection=name, document_ids=["5", "nowhere", "4"])
        first = await stub.DeleteDocuments(by_ids)
        assert first.deleted_count == 2
        assert first.version > written.version
        nothing = await stub.DeleteDocuments(by_ids)
        assert (nothing.deleted_count, nothing.version) == (0, first.version)
        by_filter = await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name, filter=old))
        assert by_filter.deleted_count == 3
        assert by_filter.version > first.version
        assert await listed(stub, name) == ["3"]
        found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query(AXES[0])]))
        assert list(found.rankings[0].document_ids) == ["3"]
        back = await stub.Upsert(upsert([document("4")], AXES[:1], collection=name))
        assert (back.inserted_count, back.replaced_count) == (1, 0)
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection=name))).document_count == 2


async def test_vectors_of_another_model_are_rejected_also_after_a_restart(place: Place) -> None:
    create = new_collection(new_name())
    create.schema.dense_fields[0].model_digest = "abc"

    def bound(digest: str) -> pb.UpsertRequest:
        request = upsert([document("a")], AXES[:1], collection=create.name)
        request.dense[0].model_digest = digest
        return request

    async def second(stub: Stub) -> None:
        retrieve = pb.RetrieveRequest(collection=create.name, queries=[query(AXES[0], model_digest="xyz")])
        calls: list[Any] = [stub.Upsert(bound("xyz")), stub.Upsert(bound("")), stub.Retrieve(retrieve)]
        for call in calls:
            error = await error_of(call)
            assert isinstance(error, PreconditionFailed)
            assert (error.reason_name, error.metadata["expected_digest"]) == ("MODEL_MISMATCH", "abc")
        retrieve.queries[0].model_digest = "abc"
        assert list((await stub.Retrieve(retrieve)).rankings[0].document_ids) == ["a"]

    async with place.stub() as stub:
        await stub.CreateCollection(create)
        await stub.Upsert(bound("abc"))
        await second(stub)
    async with place.stub() as stub:
        await second(stub)


async def test_every_acknowledged_write_is_found_by_the_next_read(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        for number in range(10):
            await stub.Upsert(upsert([document(f"{number:02}")], AXES[:1], collection=name))
            found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query(AXES[0], depth=50)]))
            assert len(found.rankings[0].document_ids) == number + 1
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name, document_ids=["03"]))
        found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query(AXES[0], depth=50)]))
        assert "03" not in found.rankings[0].document_ids
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection=name))).document_count == 9
