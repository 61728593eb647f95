"""Tests of the Milvus engine alone: replicas, an unavailable Milvus, credentials, foreign collections."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY
from pymilvus import MilvusClient
from sluice.errors import AlreadyExists, DeadlineExpired, NotFound, Unavailable, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.retrieval.settings import RetrievalSettings
from tests.conformance.engines import SHARED, Place, empty, new_name
from tests.support.milvus import Standalone
from tests.support.processes import running
from tests.support.retrieval import (
    Stub,
    channel_to_retrieval,
    document,
    error_of,
    new_collection,
    query,
    retrieval_stub,
    upsert,
)

# Of a port that nothing listens on: 1 is reserved, and needs root to listen.
NOWHERE = "http://127.0.0.1:1"
SECRET = "root:Very-Secret-7"


def retrieve(name: str) -> pb.RetrieveRequest:
    return pb.RetrieveRequest(collection=name, queries=[query([1, 0, 0, 0])])


async def test_a_write_of_one_replica_is_seen_by_the_next_read_of_another(milvus_place: Place) -> None:
    name = new_name()

    async with (
        channel_to_retrieval(milvus_place.folder / "one", **milvus_place.settings) as first,
        channel_to_retrieval(milvus_place.folder / "two", **milvus_place.settings) as second,
    ):
        one, two = RetrievalServiceStub(first), RetrievalServiceStub(second)
        await one.CreateCollection(new_collection(name))
        for number in range(5):
            written = await one.Upsert(upsert([document(f"{number}")], np.eye(4)[:1], collection=name))
            found = await two.Retrieve(retrieve(name))
            assert len(found.rankings[0].document_ids) == number + 1
            assert found.collection_version == written.version
        await two.DropCollection(pb.DropCollectionRequest(name=name))
        assert isinstance(await error_of(one.Retrieve(retrieve(name))), NotFound)
        # Another schema under the same name: the first replica must not write by what it knew.
        wider = new_collection(name)
        wider.schema.dense_fields[0].dimensions = 2
        await two.CreateCollection(wider)
        await one.Upsert(upsert([document("a")], [[1, 0]], collection=name))
        await two.DropCollection(pb.DropCollectionRequest(name=name))


async def test_calls_fail_while_milvus_is_away_and_work_again_afterwards(tmp_path: Path) -> None:
    """While Milvus is away, calls fail at once with UNAVAILABLE. Afterwards, all acknowledged documents are there."""
    name = new_name()
    milvus = Standalone(tmp_path / "milvus")

    try:
        milvus.start()
        async with retrieval_stub(tmp_path, engine="milvus", milvus_uri=milvus.uri) as stub:
            await stub.CreateCollection(new_collection(name))
            await stub.Upsert(upsert([document("a")], np.eye(4)[:1], collection=name))
            await _check_stopped(milvus, name, tmp_path / "impatient")
            milvus.kill()
            calls: list[Any] = [
                stub.Retrieve(retrieve(name)),
                stub.GetCollection(pb.GetCollectionRequest(name=name)),
                stub.ListCollections(pb.ListCollectionsRequest()),
                stub.ListAliases(pb.ListAliasesRequest()),
                stub.Upsert(upsert([document("b")], np.eye(4)[:1], collection=name)),
                stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name, document_ids=["a"])),
                stub.CreateCollection(new_collection(new_name())),
                stub.DropCollection(pb.DropCollectionRequest(name=name)),
            ]
            for call in calls:
                error = await error_of(call)
                assert isinstance(error, Unavailable)
                assert error.reason_name == "NOT_READY"
                assert error.retry_after_s
            await asyncio.to_thread(milvus.start)
            assert list((await _once_back(stub, name)).rankings[0].document_ids) == ["a"]
            done = await stub.Upsert(upsert([document("a"), document("b")], np.eye(4)[:2], collection=name))
            assert (done.inserted_count, done.replaced_count) == (1, 1)
    finally:
        milvus.kill()


async def _check_stopped(milvus: Standalone, name: str, folder: Path) -> None:
    """A Milvus that does not answer counts as unavailable after a timeout, even if the caller would wait longer."""
    settings = {"engine": "milvus", "milvus_uri": milvus.uri, "milvus_timeout_s": 1}
    async with channel_to_retrieval(folder, **settings) as channel:
        milvus.signal(signal.SIGSTOP)
        try:
            error = await error_of(RetrievalServiceStub(channel).Retrieve(retrieve(name), timeout=60))
        finally:
            milvus.signal(signal.SIGCONT)
        assert isinstance(error, Unavailable)


async def _once_back(stub: Stub, name: str) -> pb.RetrieveResponse:
    """Return the first answer. Collections load for some seconds after a start."""
    async with asyncio.timeout(180):
        while True:
            try:
                return await stub.Retrieve(retrieve(name))
            except grpc.aio.AioRpcError as failed:
                error = from_rpc_error(failed)
                assert isinstance(error, Unavailable), error
                await asyncio.sleep(error.retry_after_s or 1)


async def test_a_server_starts_without_milvus_and_rejects_calls(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, engine="milvus", milvus_uri=NOWHERE, milvus_timeout_s=1) as stub:
        for _ in range(2):
            error = await error_of(stub.ListCollections(pb.ListCollectionsRequest()))
            assert isinstance(error, Unavailable)
            assert error.retry_after_s


async def test_the_callers_deadline_ends_the_call_to_milvus(milvus_place: Place) -> None:
    name = SHARED

    async with milvus_place.stub() as stub:
        await empty(stub)
        # So soon that no Milvus can have answered.
        error = await error_of(stub.Retrieve(retrieve(name), timeout=0.0005))
        assert isinstance(error, DeadlineExpired)
        assert (await stub.Retrieve(retrieve(name))).rankings[0].coverage == 1


async def test_foreign_collections_are_not_touched(milvus_place: Place) -> None:
    theirs = f"theirs{new_name().removeprefix('zoo-')}"
    client = MilvusClient(uri=milvus_place.settings["milvus_uri"], dedicated=True)
    try:
        client.create_collection(theirs, dimension=4)

        async def check(stub: Stub) -> None:
            listed = (await stub.ListCollections(pb.ListCollectionsRequest())).collections
            assert theirs not in [one.name for one in listed]
            assert isinstance(await error_of(stub.GetCollection(pb.GetCollectionRequest(name=theirs))), NotFound)
            assert isinstance(await error_of(stub.DropCollection(pb.DropCollectionRequest(name=theirs))), NotFound)
            assert isinstance(await error_of(stub.CreateCollection(new_collection(theirs))), AlreadyExists)

        async with milvus_place.stub() as stub:
            await check(stub)
        assert client.has_collection(theirs)
    finally:
        client.drop_collection(theirs)
        client.close()


async def test_the_metrics_count_the_documents_of_each_collection(milvus_place: Place) -> None:
    name = SHARED

    async with milvus_place.stub() as stub:
        await empty(stub)
        await stub.Upsert(upsert([document("a"), document("b")], np.eye(4)[:2], collection=name))
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=name, document_ids=["a"]))

        def read(gauge: str) -> float | None:
            return REGISTRY.get_sample_value(gauge, {"collection": name})

        assert await asyncio.to_thread(read, "sluice_collection_documents") == 1
        assert await asyncio.to_thread(read, "sluice_collection_deleted_documents") is None
        assert await asyncio.to_thread(REGISTRY.get_sample_value, "sluice_store_writable") is None


def test_the_token_is_in_no_log_and_no_error(tmp_path: Path) -> None:
    environment = {"SLUICE_RETRIEVAL_MILVUS_TOKEN": SECRET}
    arguments = ["--engine", "milvus", "--milvus-uri", NOWHERE, "--milvus-timeout-s", "1", "--data", str(tmp_path)]
    with running("services.retrieval", *arguments, environment=environment) as server:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as failed:
            RetrievalServiceStub(channel).ListCollections(pb.ListCollectionsRequest(), timeout=30)
        assert SECRET not in str(failed.value)
        assert server.terminate() == 0
    log = "\n".join(server.log)
    assert '"milvus_token": "**********"' in log
    assert SECRET not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"engine": "milvus"}, "--engine milvus needs --milvus-uri"),
        ({"engine": "milvus", "milvus_uri": "http://root:secret@127.0.0.1:1"}, "milvus_uri"),
        ({"engine": "milvus", "milvus_uri": NOWHERE, "max_depth": 20_000}, "at most 16,384 candidates"),
        ({"engine": "milvus", "milvus_uri": NOWHERE, "snapshots": "x"}, "snapshots needs the embedded engine"),
        ({"engine": "other"}, "'embedded' or 'milvus'"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as refused:
        RetrievalSettings(**settings)
    assert expected in str(refused.value)


def test_pymilvus_is_needed_for_this_engine_alone() -> None:
    without = "import sys, runpy; sys.modules['pymilvus'] = None; sys.argv[0] = 'x'; "
    code = f"{without} runpy.run_module('services.retrieval', run_name='__main__')"
    command = [sys.executable, "-c", code, "--engine", "milvus", "--milvus-uri", NOWHERE, "--listen", "127.0.0.1:0"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "pip install 'sluice-search[milvus]'" in ended.stderr
    imported = "import services.retrieval.server, sys; print('pymilvus' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", imported], check=True, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "False\n"


async def test_replicas_that_create_the_same_collection_at_once_make_one(milvus_place: Place) -> None:
    name = new_name()

    async with (
        channel_to_retrieval(milvus_place.folder / "one", **milvus_place.settings) as first,
        channel_to_retrieval(milvus_place.folder / "two", **milvus_place.settings) as second,
    ):
        stubs = [RetrievalServiceStub(first), RetrievalServiceStub(second)]
        created = await asyncio.gather(
            *(stub.CreateCollection(new_collection(name)) for stub in stubs), return_exceptions=True
        )
        made = [one for one in created if isinstance(one, pb.CreateCollectionResponse)]
        assert len({one.collection.create_time.ToNanoseconds() for one in made}) == 1
        # Milvus Lite may refuse the second; to ask again is enough.
        again = await asyncio.gather(*(stub.CreateCollection(new_collection(name)) for stub in stubs))
        assert len({one.collection.create_time.ToNanoseconds() for one in (*made, *again)}) == 1
        await stubs[1].Upsert(upsert([document("a")], np.eye(4)[:1], collection=name))
        assert list((await stubs[0].Retrieve(retrieve(name))).rankings[0].document_ids) == ["a"]
