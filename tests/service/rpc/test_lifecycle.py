"""The life of a server: health, reflection, errors, deadlines and drain."""

import asyncio
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    EmbeddingServiceStub,
    add_EmbeddingServiceServicer_to_server,
)
from sluice.errors import BackendFailed, DeadlineExpired, from_rpc_error

from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service, StartFailed, bind
from services.rpc.settings import ServerSettings
from tests.support.processes import StartRefused, running, start
from tests.support.servers import channel_to, embedding_server
from tests.support.waiting import GUARD_S

NAME = "sluice.embedding.v1.EmbeddingService"


async def test_health_has_a_status_for_each_service_and_the_server(tiny_bi_encoder: Path) -> None:
    async with embedding_server(tiny_bi_encoder) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_service(tiny_bi_encoder: Path) -> None:
    async with embedding_server(tiny_bi_encoder) as channel:
        reflection: Any = reflection_pb2_grpc
        stub = reflection.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([ask])):
            assert NAME in {service.name for service in answer.list_services_response.service}


class Misbehaving(EmbeddingServiceServicer):
    """A servicer with a defect in one method and no end in the other."""

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        await asyncio.Event().wait()
        return pb.EmbedResponse()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        raise KeyError("the password is swordfish")

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        return pb.LoadModelResponse()

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        return pb.UnloadModelResponse()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        return pb.TokenizeResponse()

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        return pb.DecodeResponse()


def misbehaving(**overrides: Any) -> Any:
    settings = ServerSettings(listen="127.0.0.1:0", **overrides)
    service = Service(NAME, lambda server: add_EmbeddingServiceServicer_to_server(Misbehaving(), server))

    class Build:
        async def __aenter__(self) -> list[Service]:
            return [service]

        async def __aexit__(self, *_: object) -> None:
            return None

    return channel_to(settings, Build)


async def test_a_defect_is_internal_and_its_text_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with misbehaving() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EmbeddingServiceStub(channel).ListModels(pb.ListModelsRequest())
        error = from_rpc_error(caught.value)
        assert isinstance(error, BackendFailed)
        assert error.reason_name == "DEFECT"
        assert "swordfish" not in str(caught.value.details()) + str(caught.value.trailing_metadata())
        (record,) = [record for record in caplog.records if record.message == "call failed because of a defect"]
        assert vars(record)["request_id"] == error.metadata["request_id"]


async def test_a_call_without_deadline_ends_at_the_servers_limit() -> None:
    async with misbehaving(max_deadline_s=0.05) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EmbeddingServiceStub(channel).Embed(pb.EmbedRequest())
        assert isinstance(from_rpc_error(caught.value), DeadlineExpired)


async def test_an_address_in_use_is_refused_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartFailed, match="choose another --listen"):
            bind(grpc.aio.server(options=[("grpc.so_reuseport", 0)]), f"127.0.0.1:{taken.getsockname()[1]}")


def embed_bundle(folder: Path) -> tuple[str, ...]:
    return ("services.embedding", "--bundles", str(folder))


def damaged(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_changed_file_keeps_the_server_from_starting(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_bi_encoder, tmp_path)
    graph = folder / "fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    with pytest.raises(StartRefused, match=r"fp32\.onnx: expected SHA-256"):
        start(*embed_bundle(folder))


def test_a_missing_file_keeps_the_server_from_starting(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_bi_encoder, tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        StartRefused, match=r"tokenizer\.json: expected a file in the bundle.s folder, found none"
    ) as caught:
        start(*embed_bundle(folder))
    assert caught.value.status == 1


def test_golden_outputs_that_are_not_reproduced_keep_the_server_from_starting(
    tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    folder = damaged(tiny_bi_encoder, tmp_path)
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["dense"] = np.roll(arrays["dense"], 1, axis=1)
    np.savez(folder / "golden.npz", **arrays)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"]["golden.npz"] = sha256_of(folder / "golden.npz")
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(StartRefused, match="away from the golden outputs"):
        start(*embed_bundle(folder))


def sha256_of(path: Path) -> str:
    from services.inference.bundle import sha256

    return sha256(path)


def test_all_invalid_settings_are_reported_before_the_start(tiny_bi_encoder: Path) -> None:
    environment = {"SLUICE_EMBEDDING_THREADS": "none", "SLUICE_EMBEDING_LISTEN": "typo", "SLUICE_EMBEDDING_FOO": "1"}
    with pytest.raises(StartRefused) as caught:
        start(*embed_bundle(tiny_bi_encoder), environment=environment)
    assert caught.value.status == 2
    for name in environment:
        assert name in str(caught.value)


def test_sigterm_lets_calls_in_flight_end_and_the_process_end_with_0(tiny_bi_encoder: Path) -> None:
    command = (*embed_bundle(tiny_bi_encoder), f"--drain-grace-s={GUARD_S}", f"--max-deadline-s={GUARD_S}")
    with running(*command) as server, grpc.insecure_channel(server.address) as channel:
        texts = [f"{'word ' * 50} {number}" for number in range(256)]
        stub = EmbeddingServiceStub(channel)
        stub.Embed(pb.EmbedRequest(texts=texts[:1]))
        calls = [stub.Embed.future(pb.EmbedRequest(texts=texts), timeout=GUARD_S) for _ in range(4)]
        first = calls[0].result()
        assert first.dense.shape[0] == 256
        assert server.terminate() == 0
        codes = {call.code() for call in calls}
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        events = [event["event"] for event in server.events()]
        assert events[-2:] == ["draining", "stopped"]
