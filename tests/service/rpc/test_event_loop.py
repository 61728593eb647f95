"""The work of the event loop does not grow with the request: limits come first, and long work runs in threads."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from sluice.common.v1 import model_pb2
from sluice.common.v1.document_pb2 import Document
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.kserve.v2 import inference_service_pb2 as kserve_pb
from sluice.kserve.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from sluice.tei.v1 import tei_service_pb2 as tei_pb
from sluice.tei.v1.tei_service_pb2_grpc import RerankStub, TokenizeStub

from services.inference.tokenizer import Tokenizer
from tests.support.line_counter import counting_lines
from tests.support.retrieval import channel_to_retrieval, new_collection
from tests.support.servers import embedding_server, reranking_server

DOCUMENT, DENSE = model_pb2.TEXT_ROLE_DOCUMENT, embedding_pb.REPRESENTATION_DENSE
InferInputTensor = kserve_pb.ModelInferRequest.InferInputTensor
InferRequestedOutputTensor = kserve_pb.ModelInferRequest.InferRequestedOutputTensor
Request = Callable[[int], Message]


def inputs_of(**tensor: Any) -> kserve_pb.ModelInferRequest:
    return kserve_pb.ModelInferRequest(inputs=[InferInputTensor(**tensor)])


def typed(name: str, datatype: str, shape: list[int], **contents: Any) -> kserve_pb.ModelInferRequest:
    return inputs_of(name=name, datatype=datatype, shape=shape, contents=contents)


def raw_texts(count: int) -> kserve_pb.ModelInferRequest:
    request = inputs_of(name="text", datatype="BYTES", shape=[count, 1])
    request.raw_input_contents.append(bytes(4 * count))
    return request


# Over a limit, by the method that refuses: how many items are too many of what.
OVER: dict[str, tuple[Any, str, Request]] = {
    "texts": (EmbeddingServiceStub, "Embed", lambda n: embedding_pb.EmbedRequest(texts=["a"] * n, role=DOCUMENT)),
    "representations": (
        EmbeddingServiceStub,
        "Embed",
        lambda n: embedding_pb.EmbedRequest(texts=["a"], role=DOCUMENT, representations=[DENSE] * n),
    ),
    "texts to split": (EmbeddingServiceStub, "Tokenize", lambda n: embedding_pb.TokenizeRequest(texts=["a"] * n)),
    "sequences": (
        EmbeddingServiceStub,
        "Decode",
        lambda n: embedding_pb.DecodeRequest(sequences=[embedding_pb.TokenIds()] * n),
    ),
    "raw rows": (GRPCInferenceServiceStub, "ModelInfer", raw_texts),
    "rows": (
        GRPCInferenceServiceStub,
        "ModelInfer",
        lambda n: typed("text", "BYTES", [n, 1], bytes_contents=[b"a"] * n),
    ),
    "tensors": (
        GRPCInferenceServiceStub,
        "ModelInfer",
        lambda n: kserve_pb.ModelInferRequest(inputs=[InferInputTensor()] * n),
    ),
    "outputs": (
        GRPCInferenceServiceStub,
        "ModelInfer",
        lambda n: kserve_pb.ModelInferRequest(outputs=[InferRequestedOutputTensor()] * n),
    ),
    "parameters": (
        GRPCInferenceServiceStub,
        "ModelInfer",
        lambda n: kserve_pb.ModelInferRequest(
            parameters={str(name): kserve_pb.InferParameter(bool_param=True) for name in range(n)}
        ),
    ),
    "parameters of the repository": (
        GRPCInferenceServiceStub,
        "RepositoryModelLoad",
        lambda n: kserve_pb.RepositoryModelLoadRequest(
            parameters={str(name): kserve_pb.ModelRepositoryParameter(bool_param=True) for name in range(n)}
        ),
    ),
}
OVER_RERANKING: dict[str, tuple[Any, str, Request]] = {
    "documents": (
        RerankingServiceStub,
        "Rerank",
        lambda n: reranking_pb.RerankRequest(query="a", documents=["a"] * n),
    ),
    "texts": (RerankStub, "Rerank", lambda n: tei_pb.RerankRequest(query="a", texts=["a"] * n)),
}
OVER_RETRIEVAL: dict[str, tuple[Any, str, Request]] = {
    "documents": (
        RetrievalServiceStub,
        "Upsert",
        lambda n: retrieval_pb.UpsertRequest(collection="books", documents=[Document()] * n),
    ),
    "ids": (
        RetrievalServiceStub,
        "GetDocuments",
        lambda n: retrieval_pb.GetDocumentsRequest(collection="books", document_ids=["a"] * n),
    ),
    "ids to delete": (
        RetrievalServiceStub,
        "DeleteDocuments",
        lambda n: retrieval_pb.DeleteDocumentsRequest(collection="books", document_ids=["a"] * n),
    ),
    "queries": (
        RetrievalServiceStub,
        "Retrieve",
        lambda n: retrieval_pb.RetrieveRequest(collection="books", queries=[retrieval_pb.FieldQuery()] * n),
    ),
}
# Within all limits: so many tokens.
WITHIN: dict[str, tuple[Any, str, Request]] = {
    "Embed": (EmbeddingServiceStub, "Embed", lambda n: embedding_pb.EmbedRequest(texts=["a " * n], role=DOCUMENT)),
    "Tokenize": (EmbeddingServiceStub, "Tokenize", lambda n: embedding_pb.TokenizeRequest(texts=["a " * n])),
    "Decode": (
        EmbeddingServiceStub,
        "Decode",
        lambda n: embedding_pb.DecodeRequest(sequences=[embedding_pb.TokenIds(ids=[7] * n)]),
    ),
    "tei.v1 Tokenize": (TokenizeStub, "Tokenize", lambda n: tei_pb.EncodeRequest(inputs="a " * n)),
    "tei.v1 Decode": (TokenizeStub, "Decode", lambda n: tei_pb.DecodeRequest(ids=[7] * n)),
}


async def lines_of(channel: grpc.aio.Channel, stub: Any, method: str, request: Message) -> tuple[int, str]:
    """Lines of ours that the server's event loop, which is this thread's, ran for a call; and how the call ended."""
    with counting_lines() as lines:
        try:
            await getattr(stub(channel), method)(request)
        except grpc.aio.AioRpcError as error:
            return lines.count, error.code().name
    return lines.count, "OK"


async def check_bounded(channel: grpc.aio.Channel, stub: Any, method: str, request: Request, code: str) -> None:
    """A request ten times as large takes no more of the event loop."""
    small, ended = await lines_of(channel, stub, method, request(2_000))
    assert ended == code
    large, ended = await lines_of(channel, stub, method, request(20_000))
    assert ended == code
    assert large < 2 * small, f"{small} lines for 2,000 items, {large} for 20,000"


@asynccontextmanager
async def limited(server: Any, *bundles: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with server(*bundles, drain_grace_s=0.0) as channel:
        yield channel


@pytest.mark.parametrize("case", OVER)
async def test_requests_over_a_limit_are_rejected_without_reading_their_items(case: str, tiny_bi_encoder: Path) -> None:
    async with limited(embedding_server, tiny_bi_encoder) as channel:
        await check_bounded(channel, *OVER[case], code="INVALID_ARGUMENT")


@pytest.mark.parametrize("case", OVER_RERANKING)
async def test_rerank_requests_over_a_limit_are_rejected_without_reading_their_items(
    case: str, tiny_cross_encoder: Path
) -> None:
    async with limited(reranking_server, tiny_cross_encoder) as channel:
        await check_bounded(channel, *OVER_RERANKING[case], code="INVALID_ARGUMENT")


@pytest.mark.parametrize("case", OVER_RETRIEVAL)
async def test_retrieval_requests_over_a_limit_are_rejected_without_reading_their_items(
    case: str, tmp_path: Path
) -> None:
    async with channel_to_retrieval(tmp_path) as channel:
        await RetrievalServiceStub(channel).CreateCollection(new_collection("books"))
        await check_bounded(channel, *OVER_RETRIEVAL[case], code="INVALID_ARGUMENT")


@pytest.mark.parametrize("case", WITHIN)
async def test_long_texts_are_split_and_joined_in_threads(case: str, tiny_bi_encoder: Path) -> None:
    async with limited(embedding_server, tiny_bi_encoder) as channel:
        await check_bounded(channel, *WITHIN[case], code="OK")


def test_the_vocabulary_size_is_computed_once(tiny_bi_encoder: Path) -> None:
    tokenizer = Tokenizer(tiny_bi_encoder / "tokenizer.json", max_token_count=64)
    size = tokenizer.vocabulary_size
    tokenizer._tokenizer.add_tokens(["[another]"])
    assert tokenizer._tokenizer.get_vocab_size() == size + 1
    assert tokenizer.vocabulary_size == size
