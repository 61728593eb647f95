"""Bearer tokens of a server: admission, permissions, quotas, and the errors of rejected calls."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from sluice.client import SearchClient
from sluice.common.v1.document_pb2 import Document
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import (
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    SluiceError,
    Unauthenticated,
    from_rpc_error,
)
from sluice.kserve.v2 import inference_service_pb2 as kserve_pb
from sluice.kserve.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from sluice.search.v1 import search_service_pb2 as pb

from services.rpc.server.lifecycle import StartFailed
from tests.support.fake_services import System, system
from tests.support.processes import running
from tests.support.retrieval import channel_to_retrieval
from tests.support.servers import embedding_server
from tests.support.waiting import until

SEARCH = pb.SearchRequest(collection="books", query="one")


def made(name: str, *options: str) -> tuple[str, str]:
    """A new token of `sluice token`, and its lines for the file."""
    ran = subprocess.run(
        [sys.executable, "-m", "sluice", "token", name, *options], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip(), ran.stderr


@pytest.fixture(scope="module")
def reader() -> tuple[str, str]:
    return made("reader", "-c", "books")


@pytest.fixture(scope="module")
def writer() -> tuple[str, str]:
    return made("writer", "-c", "bo*", "--write")


@asynccontextmanager
async def guarded(tmp_path: Path, lines: str, **settings: Any) -> AsyncIterator[System]:
    path = tmp_path / "tokens.yaml"
    path.write_text(lines)
    async with system(tokens=path, reload_s=0.02, **settings) as running:
        yield running


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def error_of(call: Any) -> SluiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def indexed(served: System, token: str, collection: str = "books", count: int = 1) -> int:
    documents = [Document(document_id=str(n), text=f"one {n}") for n in range(count)]

    async def requests() -> AsyncIterator[pb.IndexRequest]:
        yield pb.IndexRequest(collection=collection, create_collection=True)
        for first in range(0, count, 250):
            yield pb.IndexRequest(documents=documents[first : first + 250])

    call = served.search.Index(requests(), timeout=60, metadata=bearing(token))
    return sum([len(response.acknowledgements) async for response in call])


async def test_callers_are_admitted_by_their_tokens(
    tmp_path: Path, reader: tuple[str, str], writer: tuple[str, str]
) -> None:
    async with guarded(tmp_path, reader[1] + writer[1]) as served:
        assert await indexed(served, writer[0]) == 1
        answer = await served.search.Search(SEARCH, metadata=bearing(reader[0]))
        assert len(answer.results) == 1
        assert isinstance(await error_of(served.search.Search(SEARCH)), Unauthenticated)
        wrong = await error_of(served.search.Search(SEARCH, metadata=bearing("sluice_wrong")))
        assert isinstance(wrong, Unauthenticated)
        assert "sluice_wrong" not in wrong.message


async def test_a_forbidden_call_is_rejected_with_the_permissions_of_the_token(
    tmp_path: Path, reader: tuple[str, str], writer: tuple[str, str]
) -> None:
    async with guarded(tmp_path, reader[1] + writer[1]) as served:
        deleting = served.search.Delete(pb.DeleteRequest(collection="books"), metadata=bearing(reader[0]))
        refused = await error_of(deleting)
        assert isinstance(refused, PermissionDenied)
        assert refused.message == "token 'reader' may read; Delete needs write"
        other = pb.SearchRequest(collection="secrets", query="one")
        elsewhere = await error_of(served.search.Search(other, metadata=bearing(reader[0])))
        assert isinstance(elsewhere, PermissionDenied)
        assert elsewhere.metadata == {"token": "reader", "collection": "secrets"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await indexed(served, reader[0])
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await indexed(served, writer[0], collection="secrets")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert served.retrieval.count("CreateCollection") == 0


async def test_an_exceeded_quota_names_the_token_and_the_retry_delay(tmp_path: Path) -> None:
    token, lines = made("slow", "--calls", "0.5")
    async with guarded(tmp_path, lines) as served:
        calls = [served.search.ListPipelines(pb.ListPipelinesRequest(), metadata=bearing(token)) for _ in range(100)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.gather(*calls)
        error = from_rpc_error(caught.value)
        assert isinstance(error, QuotaExceeded)
        assert error.subject == "token:slow"
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 2
        status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
        details = {detail.type_url.rpartition("/")[2] for detail in status.details}
        assert {"google.rpc.QuotaFailure", "google.rpc.RetryInfo", "google.rpc.ErrorInfo"} <= details


async def test_a_stream_is_slowed_to_its_quota_and_nothing_is_lost(tmp_path: Path) -> None:
    token, lines = made("indexer", "--write", "--texts", "1000")
    async with guarded(tmp_path, lines) as served:
        assert await indexed(served, token, count=2500) == 2500


async def test_tokens_follow_their_file_and_an_invalid_file_changes_nothing(
    tmp_path: Path, reader: tuple[str, str], writer: tuple[str, str]
) -> None:
    async with guarded(tmp_path, reader[1]) as served:
        await served.search.ListPipelines(pb.ListPipelinesRequest(), metadata=bearing(reader[0]))
        (tmp_path / "tokens.yaml").write_text("- name: [")
        await reloaded("refused")
        await served.search.ListPipelines(pb.ListPipelinesRequest(), metadata=bearing(reader[0]))
        (tmp_path / "tokens.yaml").write_text(writer[1])
        await reloaded("taken")
        await served.search.ListPipelines(pb.ListPipelinesRequest(), metadata=bearing(writer[0]))
        gone = served.search.ListPipelines(pb.ListPipelinesRequest(), metadata=bearing(reader[0]))
        assert isinstance(await error_of(gone), Unauthenticated)


async def reloaded(outcome: str) -> None:
    labels = {"role": "tokens", "outcome": outcome}
    before = REGISTRY.get_sample_value("sluice_reloads_total", labels) or 0

    def is_more() -> bool:
        return (REGISTRY.get_sample_value("sluice_reloads_total", labels) or 0) > before

    await asyncio.to_thread(until, is_more)


async def test_health_and_reflection_are_open_by_default(tmp_path: Path, reader: tuple[str, str]) -> None:
    async with guarded(tmp_path, reader[1]) as served:
        assert await health(served) == health_pb2.HealthCheckResponse.SERVING
        assert await reflected(served)
    async with guarded(tmp_path, reader[1], health="token", reflection="token") as served:
        assert await code_of(health(served)) is grpc.StatusCode.UNAUTHENTICATED
        assert await code_of(reflected(served)) is grpc.StatusCode.UNAUTHENTICATED
        assert await health(served, bearing(reader[0])) == health_pb2.HealthCheckResponse.SERVING
        assert await reflected(served, bearing(reader[0]))
    async with guarded(tmp_path, reader[1], reflection="off") as served:
        assert await code_of(reflected(served, bearing(reader[0]))) is grpc.StatusCode.UNIMPLEMENTED


async def health(served: System, metadata: Any = ()) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(), metadata=metadata)).status


async def reflected(served: System, metadata: Any = ()) -> list[Any]:
    reflection: Any = reflection_pb2_grpc
    stub = reflection.ServerReflectionStub(served.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    return [answer async for answer in stub.ServerReflectionInfo(iter([ask]), metadata=metadata)]


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_wrong_tokens_keep_a_server_from_starting(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"invalid tokens: .*expected YAML"):
        async with guarded(tmp_path, "- name: ["):
            pass


@pytest.mark.slow
def test_a_secret_is_in_no_log_and_no_message(tmp_path: Path, writer: tuple[str, str]) -> None:
    """A run at the level that says most, with a right token, a wrong one and one in the wrong place."""
    path = tmp_path / "tokens.yaml"
    path.write_text(writer[1])
    wrong = "sluice_wrong-and-secret"
    with running("services.orchestrator", "--tokens", str(path), "--log-level", "debug", "--reload-s=0.02") as server:
        for token in (writer[0], wrong):
            with SearchClient(server.address, token=token, timeout_s=1.0) as client:
                told = [said(client.pipelines), said(partial(client.search, "no", "x")), repr(client)]
                assert not [text for text in told if token in text]
        path.write_text(f"- {{name: oops, sha256: {wrong}}}")
        until(lambda: any("tokens file rejected" in line for line in list(server.log)))
        secrets = {writer[0], wrong, *(entry["sha256"] for entry in yaml.safe_load(writer[1]))}
    assert not [line for line in server.log if any(secret in line for secret in secrets)]
    assert any("call failed" in line for line in server.log)


def said(call: Callable[[], object]) -> str:
    try:
        return repr(call())
    except SluiceError as error:
        return f"{error!r} {error.message} {error.metadata}"


@pytest.mark.slow
def test_the_command_line_takes_its_token_from_the_environment(tmp_path: Path, writer: tuple[str, str]) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(writer[1])
    with running("services.orchestrator", "--tokens", str(path)) as server:
        command = [sys.executable, "-m", "sluice", "pipelines", "--address", server.address]
        allowed = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(writer[0]))
        assert allowed.returncode == 0, allowed.stderr
        refused = subprocess.run(command, check=False, capture_output=True, text=True, env=environment("sluice_wrong"))
        assert refused.returncode == 1
        assert "unknown token" in refused.stderr
        assert "SLUICE_TOKEN" in refused.stderr
        broken = subprocess.run(command, check=False, capture_output=True, text=True, env=environment("two words"))
        assert broken.returncode == 1
        assert "two words" not in broken.stderr


def environment(token: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")} | {
        "SLUICE_TOKEN": token
    }


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "ü", "x" * 1025])
def test_a_malformed_token_is_rejected_without_repeating_it(token: str) -> None:
    with pytest.raises(ValueError, match="expected a token of 1 to 1,024") as caught:
        SearchClient("127.0.0.1:1", token=token)
    assert not token or token not in str(caught.value)


async def test_a_request_that_is_invalid_costs_no_texts(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    """Neither what it says of itself, nor what it brings."""
    token, lines = made("model", "--texts", "1")
    (tmp_path / "tokens.yaml").write_text(lines)
    shape = kserve_pb.ModelInferRequest(model_name="tiny")
    shape.inputs.add(name="text", datatype="BYTES", shape=[2**62, 1])
    many = embedding_pb.EmbedRequest(texts=[""] * 100_000)
    async with embedding_server(tiny_bi_encoder, tokens=tmp_path / "tokens.yaml") as channel:
        bad = (
            GRPCInferenceServiceStub(channel).ModelInfer(shape, metadata=bearing(token)),
            EmbeddingServiceStub(channel).Embed(many, metadata=bearing(token)),
        )
        for call in bad:
            assert isinstance(await error_of(call), InvalidRequest)
        good = embedding_pb.EmbedRequest(texts=["one"], representations=[embedding_pb.REPRESENTATION_DENSE])
        await EmbeddingServiceStub(channel).Embed(good, metadata=bearing(token))


async def test_lists_of_collections_show_a_token_its_own(tmp_path: Path) -> None:
    reader, reader_lines = made("reader", "-c", "public", "-c", "mine")
    admin, admin_lines = made("admin", "--admin", "--write")
    (tmp_path / "tokens.yaml").write_text(reader_lines + admin_lines)
    folders: dict[str, Any] = {"snapshots": tmp_path / "snapshots", "tokens": tmp_path / "tokens.yaml"}
    schema = retrieval_pb.Schema(text_fields=[retrieval_pb.TextField(name="text")])
    async with channel_to_retrieval(tmp_path / "data", **folders) as channel:
        stub, all_, own = RetrievalServiceStub(channel), bearing(admin), bearing(reader)
        for name in ("public", "secret"):
            await stub.CreateCollection(retrieval_pb.CreateCollectionRequest(name=name, schema=schema), metadata=all_)
        for alias, collection in (("mine", "public"), ("theirs", "secret")):
            set_alias = retrieval_pb.SetAliasRequest(alias=retrieval_pb.Alias(alias=alias, collection=collection))
            await stub.SetAlias(set_alias, metadata=all_)
        await stub.CreateSnapshot(retrieval_pb.CreateSnapshotRequest(name="first"), metadata=all_)
        for metadata, hidden in ((own, True), (all_, False)):
            shown = [
                await stub.ListCollections(retrieval_pb.ListCollectionsRequest(), metadata=metadata),
                await stub.ListAliases(retrieval_pb.ListAliasesRequest(), metadata=metadata),
                await stub.ListSnapshots(retrieval_pb.ListSnapshotsRequest(), metadata=metadata),
            ]
            assert all("public" in str(response) for response in shown)
            assert [("secret" in str(response) or "theirs" in str(response)) for response in shown] == [not hidden] * 3
