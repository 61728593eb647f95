"""What the compatible APIs share with the native one: codes, prompts, lengths of vectors, and loading of models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from sluice.common.v1 import model_pb2
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import BackendFailed, InvalidRequest, NotFound, SluiceError, Unavailable
from sluice.kserve.v2 import inference_service_pb2 as kserve
from sluice.kserve.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from sluice.tei.v1 import tei_service_pb2 as tei
from sluice.tei.v1.tei_service_pb2_grpc import EmbedStub

from services.rpc.server.status_overrides import code_of
from tests.support.bundles import edited
from tests.support.servers import embedding_server

TEXT = "open the file"


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (Unavailable("busy", reason=ErrorReason.ERROR_REASON_OVERLOADED), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Unavailable("loading"), grpc.StatusCode.UNAVAILABLE),
        (BackendFailed("the model failed"), grpc.StatusCode.FAILED_PRECONDITION),
        (BackendFailed("a defect", reason=ErrorReason.ERROR_REASON_DEFECT), grpc.StatusCode.INTERNAL),
        (InvalidRequest("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("no such"), grpc.StatusCode.NOT_FOUND),
    ],
    ids=lambda value: getattr(value, "message", getattr(value, "name", "")),
)
def test_tei_clients_get_tei_codes_and_others_get_sluice_codes(error: SluiceError, theirs: grpc.StatusCode) -> None:
    assert code_of(error, "tei.v1.Embed") is theirs
    assert code_of(error, "inference.GRPCInferenceService") is error.code
    assert code_of(error, "sluice.embedding.v1.EmbeddingService") is error.code


def ask(text: str = TEXT, **parameters: kserve.InferParameter) -> kserve.ModelInferRequest:
    contents = kserve.InferTensorContents(bytes_contents=[text.encode()])
    request = kserve.ModelInferRequest(parameters=parameters)
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1], contents=contents)
    request.outputs.add(name="dense")
    return request


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, int]:
    """Code and message of a call that must fail, and the code in its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    return caught.value.code(), caught.value.details() or "", status.code


async def test_overload_has_the_code_of_each_api(tiny_bi_encoder: Path) -> None:
    async with embedding_server(tiny_bi_encoder, max_deadline_s=0.001) as channel:  # less than an answer takes
        native = await overload(lambda: EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(texts=[TEXT])))
        assert native == (grpc.StatusCode.UNAVAILABLE, 14)
        theirs = await overload(lambda: EmbedStub(channel).Embed(tei.EmbedRequest(inputs=TEXT)))
        assert theirs == (grpc.StatusCode.RESOURCE_EXHAUSTED, 8)
        triton = await overload(lambda: GRPCInferenceServiceStub(channel).ModelInfer(ask()))
        assert triton == (grpc.StatusCode.UNAVAILABLE, 14)


async def overload(call: Callable[[], Any]) -> tuple[grpc.StatusCode, int]:
    """The codes of a refusal; calls again while a busy machine looks at the call only after its millisecond."""
    code, detail = grpc.StatusCode.DEADLINE_EXCEEDED, 4
    while code is grpc.StatusCode.DEADLINE_EXCEEDED:
        code, _, detail = await refusal(call())
    return code, detail


async def test_prompts_are_chosen_by_name(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    bundle = edited(tiny_bi_encoder, tmp_path / "copy", query_prompt="find: ", document_prompt="read: ")
    async with embedding_server(bundle) as channel:
        stub, embed, triton = EmbeddingServiceStub(channel), EmbedStub(channel), GRPCInferenceServiceStub(channel)
        vectors = {}
        for name, role in (("query", model_pb2.TEXT_ROLE_QUERY), ("document", model_pb2.TEXT_ROLE_DOCUMENT)):
            native = (await stub.Embed(pb.EmbedRequest(texts=[TEXT], role=role))).dense.data
            vectors[name] = native
            given = await embed.Embed(tei.EmbedRequest(inputs=TEXT, prompt_name=name))
            assert np.array(given.embeddings, dtype=np.float32).tobytes() == native
            input_type = kserve.InferParameter(string_param=name)
            assert (await triton.ModelInfer(ask(input_type=input_type))).raw_output_contents[0] == native
        assert vectors["query"] != vectors["document"]
        spelled = await embed.Embed(tei.EmbedRequest(inputs="find: " + TEXT))  # no name, no prompt: as in TEI
        assert np.array(spelled.embeddings, dtype=np.float32).tobytes() == vectors["query"]
        code, message, _ = await refusal(triton.ModelInfer(ask()))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("parameters[input_type]: expected query or passage")


async def test_vectors_of_any_length_are_normalized_by_default(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    dots = edited(tiny_bi_encoder, tmp_path / "copy", similarity="dot", matryoshka_dimensions=[8])
    async with embedding_server(dots) as channel:
        native = (await EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(texts=[TEXT], dimensions=8))).dense.data
        embed = EmbedStub(channel)
        raw = await embed.Embed(tei.EmbedRequest(inputs=TEXT, normalize=False, dimensions=8))
        assert np.array(raw.embeddings, dtype=np.float32).tobytes() == native
        for normalized in (
            await embed.Embed(tei.EmbedRequest(inputs=TEXT, dimensions=8)),
            await embed.Embed(tei.EmbedRequest(inputs=TEXT, dimensions=8, normalize=True)),
        ):
            assert np.linalg.norm(normalized.embeddings) == pytest.approx(1, abs=1e-6)
            assert np.linalg.norm(raw.embeddings) < 0.99


async def test_models_are_loaded_from_the_repository_and_unloaded(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for version in ("9", "10"):
        edited(tiny_bi_encoder, repository / "other" / version, name="other", version=version)
    async with embedding_server(tiny_bi_encoder, repository=repository) as channel:
        stub = GRPCInferenceServiceStub(channel)

        async def index(**fields: Any) -> list[tuple[str, str, str]]:
            models = (await stub.RepositoryIndex(kserve.RepositoryIndexRequest(**fields))).models
            return [(one.name, one.version, one.state) for one in models]

        loaded = ("tiny", "1", "READY")
        assert await index() == [("other", "10", "UNAVAILABLE"), ("other", "9", "UNAVAILABLE"), loaded]
        assert await index(ready=True) == [loaded]
        await stub.RepositoryModelLoad(kserve.RepositoryModelLoadRequest(model_name="other"))
        assert await index(ready=True) == [("other", "10", "READY"), loaded]
        nine = {"version": kserve.ModelRepositoryParameter(string_param="9")}
        await stub.RepositoryModelLoad(kserve.RepositoryModelLoadRequest(model_name="other", parameters=nine))
        assert await index(ready=True) == [("other", "9", "READY"), loaded]
        request = ask()
        request.model_name = "other"
        assert (await stub.ModelInfer(request)).model_version == "9"
        await stub.RepositoryModelUnload(kserve.RepositoryModelUnloadRequest(model_name="other"))
        assert await index(ready=True) == [loaded]
        ready = await stub.ModelReady(kserve.ModelReadyRequest(name="other"))
        assert not ready.ready
        await refuses_what_it_cannot_load(stub)


async def refuses_what_it_cannot_load(stub: Any) -> None:
    odd = {"config": kserve.ModelRepositoryParameter(string_param="{}")}
    for bad, code in (
        (kserve.RepositoryModelLoadRequest(model_name="nobody"), grpc.StatusCode.NOT_FOUND),
        (kserve.RepositoryModelLoadRequest(model_name="../other"), grpc.StatusCode.NOT_FOUND),
        (kserve.RepositoryModelLoadRequest(model_name="other", parameters=odd), grpc.StatusCode.INVALID_ARGUMENT),
        (
            kserve.RepositoryModelLoadRequest(model_name="other", repository_name="x"),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        assert (await refusal(stub.RepositoryModelLoad(bad)))[0] is code
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await stub.RepositoryModelUnload(kserve.RepositoryModelUnloadRequest(model_name="nobody"))


async def test_a_server_without_a_repository_loads_nothing(tiny_bi_encoder: Path) -> None:
    async with embedding_server(tiny_bi_encoder) as channel:
        load = kserve.RepositoryModelLoadRequest(model_name="other")
        code, message, _ = await refusal(GRPCInferenceServiceStub(channel).RepositoryModelLoad(load))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "--repository" in message


async def test_rows_whose_padding_exceeds_a_message_are_rejected(tiny_bi_encoder: Path) -> None:
    texts = ["open the file and sort the list " * 20, *["a"] * 15]  # 16 rows of 62 x 32 floats
    contents = kserve.InferTensorContents(bytes_contents=[text.encode() for text in texts])
    uneven = kserve.ModelInferRequest()
    uneven.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1], contents=contents)
    async with embedding_server(tiny_bi_encoder, max_message_bytes=65_536) as channel:
        code, message, _ = await refusal(GRPCInferenceServiceStub(channel).ModelInfer(uneven))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("outputs: expected rows of multi_vector that take at most 65,536 bytes")


async def test_a_client_that_is_still_writing_receives_the_error(tiny_bi_encoder: Path) -> None:
    async with embedding_server(tiny_bi_encoder) as channel:
        messages = [tei.EmbedRequest(inputs="" if number == 5 else f"text {number}") for number in range(300)]
        codes = []
        for _ in range(20):
            call = EmbedStub(channel).EmbedStream(iter(messages))
            found: list[Any] = []

            async def read(call: Any = call, found: list[Any] = found) -> None:
                async for response in call:
                    found.append(response)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read()
            codes.append(caught.value.code())
            if codes[-1] is grpc.StatusCode.INVALID_ARGUMENT:
                assert (caught.value.details() or "").startswith("inputs: expected some text")
                assert len(found) == 5
        # A client that a busy machine holds up between two messages counts as one that waits. Where the server does
        # not read on, more than half of the calls end as INTERNAL.
        assert codes.count(grpc.StatusCode.INVALID_ARGUMENT) >= 15, codes
