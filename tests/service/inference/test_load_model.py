"""Bundles that do not match the request or their manifest are rejected, and errors reveal no paths."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from sluice.common.v1 import model_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.kserve.v2 import inference_service_pb2 as kserve_pb
from sluice.kserve.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub
from sluice.tei.v1 import tei_service_pb2 as tei_pb
from sluice.tei.v1.tei_service_pb2_grpc import EmbedStub, RerankStub

from tests.support.bundles import edited
from tests.support.servers import embedding_server, reranking_server


async def ended(call: Any) -> tuple[str, str]:
    """How a call ended: its code, and what it says."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def with_file(folder: Path, name: str, content: bytes) -> None:
    """Put a file in the place of another, with the hash that belongs to it."""
    (folder / name).write_bytes(content)
    with_hash(folder, name, hashlib.sha256(content).hexdigest())


def with_hash(folder: Path, name: str, digest: str) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"][name] = digest
    (folder / "bundle.json").write_text(json.dumps(manifest))


def pointing(name: str) -> Callable[[Path], None]:
    digest = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    return lambda folder: with_hash(folder, name, digest)


def linked(folder: Path) -> None:
    (folder / "extra").symlink_to("/etc/passwd")
    pointing("extra")(folder)


def foldered(folder: Path) -> None:
    (folder / "extra").mkdir()
    with_hash(folder, "extra", "0" * 64)


def deep(folder: Path) -> None:
    (folder / "bundle.json").write_text("[" * 100_000 + "]" * 100_000)


BROKEN: dict[str, Callable[[Path], object]] = {
    "file above": pointing("../../../../etc/passwd"),
    "file elsewhere": pointing("/etc/passwd"),
    "link": linked,
    "no file": lambda folder: with_hash(folder, "extra", "0" * 64),
    "folder": foldered,
    "changed file": lambda folder: (folder / "fp32.onnx").write_bytes(b"changed"),
    "no manifest": lambda folder: (folder / "bundle.json").unlink(),
    "no JSON": lambda folder: (folder / "bundle.json").write_bytes(b"\xff\xfe"),
    "deep JSON": deep,
    "large manifest": lambda folder: (folder / "bundle.json").write_bytes(b" " * (2**20 + 1)),
    "tokenizer": lambda folder: with_file(folder, "tokenizer.json", b"{}"),
    "graph": lambda folder: with_file(folder, "fp32.onnx", b"nothing"),
    "golden outputs": lambda folder: with_file(folder, "golden.npz", b"PK nothing"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_bundle_is_rejected_without_revealing_paths(
    case: str, tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    BROKEN[case](edited(tiny_bi_encoder, tmp_path / "broken" / "1", name="broken"))
    async with embedding_server(tiny_bi_encoder, repository=tmp_path, drain_grace_s=0.0) as channel:
        code, details = await ended(
            EmbeddingServiceStub(channel).LoadModel(pb.LoadModelRequest(name="broken", version="1"))
        )
        assert code == "FAILED_PRECONDITION"
        assert details.startswith("bundle broken 1 cannot be served: ")
        assert str(tmp_path) not in details
        load = kserve_pb.RepositoryModelLoadRequest(model_name="broken")
        assert (await ended(GRPCInferenceServiceStub(channel).RepositoryModelLoad(load)))[0] in {
            "FAILED_PRECONDITION",
            "NOT_FOUND",
        }


async def test_a_folder_with_another_name_or_version_replaces_no_model(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    edited(tiny_bi_encoder, tmp_path / "other" / "1", query_prompt="changed: ")
    edited(tiny_bi_encoder, tmp_path / "tiny" / "2", query_prompt="changed: ")
    async with embedding_server(tiny_bi_encoder, repository=tmp_path, drain_grace_s=0.0) as channel:
        stub = EmbeddingServiceStub(channel)
        before = await stub.ListModels(pb.ListModelsRequest())
        for name, version in (("other", "1"), ("tiny", "2")):
            code, details = await ended(stub.LoadModel(pb.LoadModelRequest(name=name, version=version)))
            assert code == "FAILED_PRECONDITION"
            assert details.endswith("bundle.json: expected name and version of the request, found tiny 1")
        assert await stub.ListModels(pb.ListModelsRequest()) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../tiny", "a/b", "/etc", "a\0b", "x" * 300, "ä", "-a", "a b", "a\n"])
async def test_invalid_bundle_names_are_rejected(name: str, tiny_bi_encoder: Path, tmp_path: Path) -> None:
    async with embedding_server(tiny_bi_encoder, repository=tmp_path, drain_grace_s=0.0) as channel:
        stub, kserve = EmbeddingServiceStub(channel), GRPCInferenceServiceStub(channel)
        as_name = await ended(stub.LoadModel(pb.LoadModelRequest(name=name, version="1")))
        as_version = await ended(stub.LoadModel(pb.LoadModelRequest(name="tiny", version=name)))
        assert (as_name[0], as_version[0]) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
        load = kserve_pb.RepositoryModelLoadRequest(model_name=name)
        load.parameters["version"].string_param = "1"
        assert (await ended(kserve.RepositoryModelLoad(load)))[0] == "INVALID_ARGUMENT"
        unknown = {"INVALID_ARGUMENT", "NOT_FOUND"}
        assert (await ended(stub.UnloadModel(pb.UnloadModelRequest(name=name))))[0] in unknown
        assert (await ended(kserve.ModelConfig(kserve_pb.ModelConfigRequest(name=name or "-"))))[0] in unknown


async def test_the_repository_lists_what_can_be_loaded_and_takes_no_parameter_of_another_kind(
    tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    for version in ("2", "10", "²", "a b"):
        edited(tiny_bi_encoder, tmp_path / "other" / version, name="other", version=version)
    async with embedding_server(tiny_bi_encoder, repository=tmp_path, drain_grace_s=0.0) as channel:
        stub = GRPCInferenceServiceStub(channel)
        index = await stub.RepositoryIndex(kserve_pb.RepositoryIndexRequest())
        assert [(one.name, one.version) for one in index.models] == [("other", "10"), ("other", "2"), ("tiny", "1")]
        load = kserve_pb.RepositoryModelLoadRequest(model_name="other")
        load.parameters["version"].int64_param = 2
        code, details = await ended(stub.RepositoryModelLoad(load))
        assert (code, details) == (
            "INVALID_ARGUMENT",
            "parameters[version]: expected string_param, got int64_param",
        )
        assert await ended(stub.RepositoryModelLoad(kserve_pb.RepositoryModelLoadRequest(model_name="other"))) == (
            "OK",
            "",
        )
        assert (await stub.ModelMetadata(kserve_pb.ModelMetadataRequest(name="other"))).versions == ["10"]


def with_unknown_enums(request: Message) -> Iterator[tuple[str, Message]]:
    """The request with a number that no enum has, in each of its fields that is one."""
    for field in request.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_ENUM:
            changed = type(request)()
            changed.CopyFrom(request)
            changed.MergeFromString(_enum(field.number))
            yield field.name, changed


def _enum(number: int) -> bytes:
    """The wire form of a field with value 99."""
    return bytes([number << 3, 99])


async def test_unknown_enum_values_are_refused_by_field(tiny_bi_encoder: Path, tiny_cross_encoder: Path) -> None:
    tried = []
    async with (
        embedding_server(tiny_bi_encoder, drain_grace_s=0.0) as embedding,
        reranking_server(tiny_cross_encoder, drain_grace_s=0.0) as reranking,
    ):
        for call, request in (
            (EmbeddingServiceStub(embedding).Embed, pb.EmbedRequest(texts=["ore"])),
            (EmbeddingServiceStub(embedding).Tokenize, pb.TokenizeRequest(texts=["ore"])),
            (EmbedStub(embedding).Embed, tei_pb.EmbedRequest(inputs="ore", truncate=True, normalize=True)),
            (RerankingServiceStub(reranking).Rerank, reranking_pb.RerankRequest(query="ore", documents=["ore"])),
            (RerankStub(reranking).Rerank, tei_pb.RerankRequest(query="ore", texts=["ore"], truncate=True)),
        ):
            send: Any = call
            assert await ended(send(request)) == ("OK", "")
            for field, changed in with_unknown_enums(request):
                code, details = await ended(send(changed))
                assert (code, details.partition(":")[0].partition("[")[0]) == ("INVALID_ARGUMENT", field)
                tried.append(field)
        windows = pb.EmbedRequest(texts=["ore"], windows=model_pb2.Windows())
        windows.windows.MergeFromString(_enum(model_pb2.Windows.DESCRIPTOR.fields_by_name["aggregation"].number))
        assert (await ended(EmbeddingServiceStub(embedding).Embed(windows)))[0] == "INVALID_ARGUMENT"
    assert {"role", "data_type", "representations", "lane", "truncation", "order"} <= set(tried)
