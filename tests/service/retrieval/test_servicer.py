"""Every RPC of the retrieval service, against a real server."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import filter_pb2 as flt
from sluice.errors import AlreadyExists, NotFound, PreconditionFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.support.retrieval import (
    Stub,
    document,
    error_of,
    new_collection,
    query,
    retrieval_stub,
    upsert,
    value,
)

AXES = np.eye(4, dtype=np.float32)


async def fill(stub: Stub) -> None:
    """Three books on the first three axes."""
    await stub.CreateCollection(new_collection())
    books = [
        document("a", author="Ada", year=1843, tags=["maths", "notes"]),
        document("b", author="Brooks", year=1975, printed=True),
        document("c", author="Codd", year=1970, tags=["data"]),
    ]
    await stub.Upsert(upsert(books, AXES[:3], content_hashes=["1", "2", "3"]))


def year(operator: flt.Comparison.Operator.ValueType, number: float) -> flt.Filter:
    comparison = flt.Comparison(field="year", operator=operator, value=value(number))
    return flt.Filter(comparison=comparison)


SINCE_1970 = year(flt.Comparison.OPERATOR_GREATER_OR_EQUAL, 1970)


async def test_collection_is_created_once_described_listed_and_dropped(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        created = (await stub.CreateCollection(new_collection("zoo"))).collection
        again = (await stub.CreateCollection(new_collection("zoo"))).collection
        assert created == again
        assert (created.document_count, created.version) == (0, 0)
        assert created.create_time.seconds > 1_700_000_000
        assert created.schema == new_collection().schema
        await fill(stub)
        described = (await stub.GetCollection(pb.GetCollectionRequest(name="books"))).collection
        assert (described.document_count, described.version) == (3, 1)
        listed = await stub.ListCollections(pb.ListCollectionsRequest())
        assert [collection.name for collection in listed.collections] == ["books", "zoo"]
        assert (await stub.DropCollection(pb.DropCollectionRequest(name="books"))).deleted_count == 3
        gone = await error_of(stub.GetCollection(pb.GetCollectionRequest(name="books")))
        assert isinstance(gone, NotFound)
        assert gone.reason_name == "UNKNOWN_COLLECTION"


async def test_creating_a_collection_with_another_schema_is_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        other = await error_of(stub.CreateCollection(new_collection(metric=pb.METRIC_L2)))
        assert isinstance(other, AlreadyExists)
        assert other.reason_name == "COLLECTION_EXISTS"


async def test_upsert_counts_new_and_replaced_documents_and_get_returns_them(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        moment = doc.MetadataValue(timestamp_value=Timestamp(seconds=-62_135_596_800, nanos=123_456_789))
        changed = document("b", "new", author="B", added=moment, tags=[True, False], free=["x"])
        done = await stub.Upsert(upsert([changed, document("d")], AXES[2:], content_hashes=["2b", ""]))
        assert (done.inserted_count, done.replaced_count, done.version) == (1, 1, 2)
        request = pb.GetDocumentsRequest(collection="books", document_ids=["d", "nowhere", "b"])
        got = await stub.GetDocuments(request)
        changed.metadata["added"].timestamp_value.nanos = 123_456_000  # kept to the microsecond
        assert list(got.documents) == [document("d"), changed]
        assert list(got.content_hashes) == ["", "2b"]
        request.view = pb.DOCUMENT_VIEW_ID
        got = await stub.GetDocuments(request)
        assert list(got.documents) == [doc.Document(document_id="d"), doc.Document(document_id="b")]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (pb.METRIC_UNSPECIFIED, [("a", 0.8), ("b", 0.6), ("c", 0.0)]),
        (pb.METRIC_COSINE, [("a", 0.8), ("b", 0.6), ("c", 0.0)]),
        (pb.METRIC_DOT, [("b", 12.0), ("a", 8.0), ("c", 0.0)]),
        (pb.METRIC_L2, [("b", -80.0), ("a", -85.0), ("c", -101.0)]),
    ],
)
async def test_retrieve_ranks_by_the_metric(
    tmp_path: Path, metric: pb.Metric.ValueType, expected: list[tuple[str, float]]
) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection(metric=metric))
        await stub.Upsert(upsert([document("a"), document("b"), document("c")], AXES[:3] * [[1], [2], [1]]))
        found = await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query([8, 6, 0, 0])]))
        (ranking,) = found.rankings
        assert list(ranking.document_ids) == [id_ for id_, _ in expected]
        assert list(ranking.scores) == pytest.approx([score for _, score in expected], abs=1e-6)
        assert [document.document_id for document in found.documents] == ["a", "b", "c"]
        assert found.documents[0].text == "text of a"
        assert found.collection_version == 1


async def test_retrieve_answers_several_queries_with_a_filter_and_ids_only(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        request = pb.RetrieveRequest(
            collection="books",
            queries=[query([1, 0.5, 0, 0], depth=1), query([1, 0, 2, 0], field="dense")],
            filter=SINCE_1970,
            view=pb.DOCUMENT_VIEW_ID,
        )
        found = await stub.Retrieve(request)
        assert [list(ranking.document_ids) for ranking in found.rankings] == [["b"], ["c", "b"]]
        assert list(found.documents) == [doc.Document(document_id="b"), doc.Document(document_id="c")]


async def test_equal_scores_are_ordered_by_id_however_they_were_written(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        vector = np.random.default_rng(1).standard_normal(4).astype(np.float32)
        for ids in (["m", "z", "c"], ["b"], ["a", "y"], ["x"], ["z"]):
            await stub.Upsert(upsert([document(id_) for id_ in ids], np.tile(vector, (len(ids), 1))))
        found = await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query(vector, depth=4)]))
        assert list(found.rankings[0].document_ids) == ["a", "b", "c", "m"]
        assert len(set(found.rankings[0].scores)) == 1


async def test_retrieve_from_an_empty_collection_finds_nothing(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        found = await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query([1, 0, 0, 0])]))
        assert found == pb.RetrieveResponse(rankings=[pb.Ranking(coverage=1)])


async def test_delete_by_ids_and_by_filter(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        by_ids = pb.DeleteDocumentsRequest(collection="books", document_ids=["b", "nowhere"])
        done = await stub.DeleteDocuments(by_ids)
        assert (done.deleted_count, done.version) == (1, 2)
        done = await stub.DeleteDocuments(by_ids)
        assert (done.deleted_count, done.version) == (0, 2)
        done = await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", filter=SINCE_1970))
        assert (done.deleted_count, done.version) == (1, 3)
        found = await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query([1, 1, 1, 1])]))
        assert list(found.rankings[0].document_ids) == ["a"]


async def test_count_all_and_with_a_filter(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection="books"))).document_count == 3
        counted = await stub.CountDocuments(pb.CountDocumentsRequest(collection="books", filter=SINCE_1970))
        assert counted.document_count == 2


async def test_a_restart_keeps_all_data(tmp_path: Path) -> None:
    async def look(stub: Stub) -> tuple[pb.RetrieveResponse, pb.GetCollectionResponse]:
        found = await stub.Retrieve(
            pb.RetrieveRequest(collection="books", queries=[query([3, 2, 1, 0])], filter=SINCE_1970)
        )
        described = await stub.GetCollection(pb.GetCollectionRequest(name="books"))
        described.collection.ClearField("statistics")  # a start leaves no dead documents in memory
        return found, described

    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=["a"]))
        before = await look(stub)
    async with retrieval_stub(tmp_path) as stub:
        assert await look(stub) == before


async def test_a_field_bound_to_a_model_rejects_vectors_of_another(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        create = new_collection()
        create.schema.dense_fields[0].model_digest = "abc"
        await stub.CreateCollection(create)
        request = upsert([document("a")], AXES[:1])
        for given in ("", "xyz"):
            request.dense[0].model_digest = given
            refused = await error_of(stub.Upsert(request))
            assert isinstance(refused, PreconditionFailed)
            assert refused.reason_name == "MODEL_MISMATCH"
            assert (refused.metadata["expected_digest"], refused.metadata["given_digest"]) == ("abc", given)
        request.dense[0].model_digest = "abc"
        await stub.Upsert(request)
        for given in ("", "abc"):
            await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query(AXES[0], model_digest=given)]))
        other = pb.RetrieveRequest(collection="books", queries=[query(AXES[0], model_digest="xyz")])
        assert (await error_of(stub.Retrieve(other))).reason_name == "MODEL_MISMATCH"
