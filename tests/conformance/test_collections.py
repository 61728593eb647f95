"""Collections and aliases: create, describe, list, move and drop."""

from typing import Any

import pytest
from sluice.common.v1.model_pb2 import WINDOW_AGGREGATION_MEAN, Windows
from sluice.errors import AlreadyExists, InvalidRequest, NotFound, PreconditionFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.conformance.engines import SHARED, Place, empty, new_name
from tests.support.retrieval import DIMENSIONS, Stub, document, error_of, new_collection, query, upsert

AXES = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


async def test_a_collection_is_created_described_listed_dropped_and_created_again(place: Place) -> None:
    name = new_name()

    async with place.stub() as stub:
        created = (await stub.CreateCollection(new_collection(name))).collection
        assert (created.name, created.document_count, created.version) == (name, 0, 0)
        assert created.schema == _declared(name)
        again = (await stub.CreateCollection(new_collection(name))).collection
        assert again.create_time == created.create_time
        other = await error_of(stub.CreateCollection(new_collection(name, pb.METRIC_L2)))
        assert isinstance(other, AlreadyExists)
        await stub.Upsert(upsert([document("a"), document("b")], AXES[:2], collection=name))
        described = (await stub.GetCollection(pb.GetCollectionRequest(name=name))).collection
        assert (described.document_count, described.schema) == (2, created.schema)
        assert described.version > 0
        listed = (await stub.ListCollections(pb.ListCollectionsRequest())).collections
        assert [one.name for one in listed] == sorted(one.name for one in listed)
        assert described in listed
        assert (await stub.DropCollection(pb.DropCollectionRequest(name=name))).deleted_count == 2
        await _is_gone(stub, name)
        wider = new_collection(name)
        wider.schema.dense_fields[0].dimensions = 2
        assert (await stub.CreateCollection(wider)).collection.document_count == 0
        await stub.Upsert(upsert([document("c")], [[1, 0]], collection=name))
        found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query([1, 0])]))
        assert list(found.rankings[0].document_ids) == ["c"]


async def test_a_collection_keeps_the_windows_of_its_documents(place: Place) -> None:
    create = new_collection(new_name())
    create.schema.windows.overlap_token_count = 4
    named = Windows(overlap_token_count=4, aggregation=WINDOW_AGGREGATION_MEAN)

    async with place.stub() as stub:
        assert (await stub.CreateCollection(create)).collection.schema.windows == named
        described = (await stub.GetCollection(pb.GetCollectionRequest(name=create.name))).collection
        assert described.schema.windows == named
        truncating = await error_of(stub.CreateCollection(new_collection(create.name)))
        assert isinstance(truncating, AlreadyExists)


async def _is_gone(stub: Stub, name: str) -> None:
    calls: list[Any] = [
        stub.GetCollection(pb.GetCollectionRequest(name=name)),
        stub.DropCollection(pb.DropCollectionRequest(name=name)),
        stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query(AXES[0])])),
        stub.CountDocuments(pb.CountDocumentsRequest(collection=name)),
        stub.GetDocuments(pb.GetDocumentsRequest(collection=name, document_ids=["a"])),
        stub.Upsert(upsert([document("a")], AXES[:1], collection=name)),
        stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name, document_ids=["a"])),
        stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias=new_name(), collection=name))),
    ]
    for call in calls:
        error = await error_of(call)
        assert isinstance(error, NotFound)
        assert (error.reason_name, error.metadata["collection"]) == ("UNKNOWN_COLLECTION", name)


def _declared(name: str) -> pb.Schema:
    schema = new_collection(name).schema
    schema.dense_fields[0].metric = pb.METRIC_COSINE
    return schema


async def test_an_alias_moves_to_another_collection_and_is_dropped_with_it(place: Place) -> None:
    blue, green, alias = new_name(), new_name(), new_name()

    async def names(stub: Stub) -> dict[str, str]:
        return {one.alias: one.collection for one in (await stub.ListAliases(pb.ListAliasesRequest())).aliases}

    async def found(stub: Stub) -> list[str]:
        ranking = await stub.Retrieve(pb.RetrieveRequest(collection=alias, queries=[query(AXES[0])]))
        return list(ranking.rankings[0].document_ids)

    async with place.stub() as stub:
        for name, id_ in ((blue, "old"), (green, "new")):
            await stub.CreateCollection(new_collection(name))
            await stub.Upsert(upsert([document(id_)], AXES[:1], collection=name))
            await stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias=alias, collection=name)))
            await stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias=alias, collection=name)))
            assert (await names(stub))[alias] == name
            assert await found(stub) == [id_]
            assert (await stub.GetCollection(pb.GetCollectionRequest(name=alias))).collection.name == name
        await stub.Upsert(upsert([document("newer")], AXES[1:2], collection=alias))
        assert await found(stub) == ["new", "newer"]
        assert isinstance(await error_of(stub.CreateCollection(new_collection(alias))), AlreadyExists)
        taken = pb.SetAliasRequest(alias=pb.Alias(alias=blue, collection=green))
        assert isinstance(await error_of(stub.SetAlias(taken)), AlreadyExists)
        assert isinstance(await error_of(stub.DropCollection(pb.DropCollectionRequest(name=alias))), NotFound)
        for _ in range(2):
            await stub.DeleteAlias(pb.DeleteAliasRequest(alias=alias))
        assert alias not in await names(stub)
        await stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias=alias, collection=green)))
        await stub.DropCollection(pb.DropCollectionRequest(name=green))
        assert alias not in await names(stub)
        assert isinstance(await error_of(stub.GetCollection(pb.GetCollectionRequest(name=alias))), NotFound)


FIELDS: dict[str, tuple[str, Any]] = {
    "sparse": ("schema.sparse_fields[0]", {"sparse_fields": [pb.SparseField(name="s")]}),
    "text": ("schema.text_fields[0]", {"text_fields": [pb.TextField(name="t")]}),
    "multi_vector": (
        "schema.multi_vector_fields[0]",
        {"multi_vector_fields": [pb.MultiVectorField(name="m", dimensions=2)]},
    ),
    "several_dense": (
        "schema.dense_fields[1]",
        {"dense_fields": [pb.DenseField(name=name, dimensions=DIMENSIONS) for name in ("one", "two")]},
    ),
}


@pytest.mark.parametrize("kind", FIELDS)
async def test_a_field_is_supported_or_rejected_with_its_path(place: Place, kind: str) -> None:
    path, schema = FIELDS[kind]

    async with place.stub() as stub:
        create = pb.CreateCollectionRequest(name=new_name(), schema=pb.Schema(**schema))
        if getattr(place.can, kind):
            await stub.CreateCollection(create)
            await stub.DropCollection(pb.DropCollectionRequest(name=create.name))
            return
        error = await error_of(stub.CreateCollection(create))
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == [path]
        assert isinstance(await error_of(stub.GetCollection(pb.GetCollectionRequest(name=create.name))), NotFound)


async def test_the_number_of_collections_is_limited(place: Place) -> None:
    async def count(stub: Stub) -> int:
        return len((await stub.ListCollections(pb.ListCollectionsRequest())).collections)

    async with place.stub() as stub:
        there = await count(stub)

    async with place.stub(max_collections=max(1, there)) as stub:
        if not there:
            await stub.CreateCollection(new_collection(new_name()))
        refused = await error_of(stub.CreateCollection(new_collection(new_name())))
        assert refused.reason_name == "QUOTA_EXCEEDED"


async def test_a_collection_is_compacted_on_request_or_the_request_is_rejected(place: Place) -> None:
    async with place.stub() as stub:
        await empty(stub)
        call = stub.OptimizeCollection(pb.OptimizeCollectionRequest(name=SHARED))
        if place.can.optimize:
            await call
        else:
            assert isinstance(await error_of(call), PreconditionFailed)
        snapshot = await error_of(stub.CreateSnapshot(pb.CreateSnapshotRequest()))
        assert isinstance(snapshot, PreconditionFailed)
