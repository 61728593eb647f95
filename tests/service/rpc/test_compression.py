"""Compressed requests are rejected before they are decompressed, unless the operator accepts them."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

from tests.support.fake_services import HashingEmbedder, embedding_server
from tests.support.processes import ServerProcess, running

ALGORITHMS = (grpc.Compression.Gzip, grpc.Compression.Deflate)
TIMEOUT_S = 120


async def code_and_message(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_compressed_requests_are_refused_and_others_are_answered(algorithm: grpc.Compression) -> None:
    embedder = HashingEmbedder()
    request = pb.EmbedRequest(texts=["word " * 1000], representations=[pb.REPRESENTATION_DENSE])
    async with embedding_server(embedder) as address, grpc.aio.insecure_channel(address) as channel:
        stub = EmbeddingServiceStub(channel)
        code, message = await code_and_message(stub.Embed(request, compression=algorithm, timeout=TIMEOUT_S))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "is disabled" in message
        await stub.Embed(request, timeout=TIMEOUT_S)
    assert embedder.count("Embed") == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_an_operator_can_accept_compressed_requests(algorithm: grpc.Compression) -> None:
    request = pb.EmbedRequest(texts=["word " * 1000], representations=[pb.REPRESENTATION_DENSE])
    async with (
        embedding_server(HashingEmbedder(), compression=True) as address,
        grpc.aio.insecure_channel(address, compression=algorithm) as channel,
    ):
        assert (await EmbeddingServiceStub(channel).Embed(request, timeout=TIMEOUT_S)).usage[0].token_count == 1000


def resident_bytes(server: ServerProcess) -> int:
    pages = Path(f"/proc/{server.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def sent(address: str, method: str, algorithm: grpc.Compression, size: int) -> grpc.StatusCode:
    """How a call ends whose message has so many zeros. The message travels as about a thousandth of it."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=options, compression=algorithm) as channel:
        call: Any = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(size), timeout=TIMEOUT_S)
        return caught.value.code()


@pytest.mark.slow
def test_a_rejected_compressed_request_is_not_decompressed(tmp_path: Path) -> None:
    """By health and a call, on the port of the server and on that of health."""
    with running("services.retrieval", "--data", str(tmp_path), "--health-listen=127.0.0.1:0") as server:
        (health,) = [event["address"] for event in server.events() if event["event"] == "serving health"]
        before = resident_bytes(server)
        for algorithm in ALGORITHMS:
            for address, method in (
                (server.address, "/grpc.health.v1.Health/Check"),
                (server.address, "/grpc.health.v1.Health/Watch"),
                (server.address, "/sluice.retrieval.v1.RetrievalService/ListCollections"),
                (health, "/grpc.health.v1.Health/Check"),
            ):
                assert sent(address, method, algorithm, 300 * 2**20) is grpc.StatusCode.UNIMPLEMENTED
        assert resident_bytes(server) - before < 100 * 2**20
