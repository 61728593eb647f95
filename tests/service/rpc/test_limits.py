"""Limits of calls, connections and metadata: what exceeds them is rejected, and the rest is served."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

from tests.support.fake_services import HashingEmbedder, embedding_server

if TYPE_CHECKING:
    from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceAsyncStub


@asynccontextmanager
async def served(embedder: HashingEmbedder, **settings: Any) -> AsyncIterator[tuple[str, "EmbeddingServiceAsyncStub"]]:
    async with (
        embedding_server(embedder, **settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield address, EmbeddingServiceStub(channel)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_calls_over_the_limit_are_rejected_until_others_end() -> None:
    arrived, leave = asyncio.Event(), asyncio.Event()

    async def wait(method: str) -> None:
        arrived.set()
        await leave.wait()

    async with served(HashingEmbedder(before=wait), max_calls=1) as (_, stub):
        first = asyncio.ensure_future(stub.ListModels(pb.ListModelsRequest(), timeout=60))
        await arrived.wait()
        second = stub.ListModels(pb.ListModelsRequest(), timeout=60)
        assert await code_of(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
        leave.set()
        await first
        async with asyncio.timeout(60):
            while not await answered(stub):  # the place is given back some time after the answer
                pass


async def answered(stub: "EmbeddingServiceAsyncStub") -> bool:
    call = stub.ListModels(pb.ListModelsRequest(), timeout=60)
    code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return code is grpc.StatusCode.OK


async def test_calls_over_the_limit_of_a_connection_do_not_run() -> None:
    """They wait at the caller that knows the limit; those that left before it did are UNAVAILABLE, nothing done."""
    leave, running, most = asyncio.Event(), 0, 0

    async def count(method: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            leave.set()
        await leave.wait()
        running -= 1

    async with served(HashingEmbedder(before=count), max_connection_calls=2) as (_, stub):
        calls = [stub.ListModels(pb.ListModelsRequest(), timeout=60) for _ in range(20)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one.code() for one in ended if isinstance(one, grpc.aio.AioRpcError)]
    assert set(refused) <= {grpc.StatusCode.UNAVAILABLE}
    assert len(refused) < len(ended)
    assert most == 2


async def test_metadata_over_the_limit_is_refused() -> None:
    async with served(HashingEmbedder(), max_metadata_bytes=8192) as (_, stub):
        large = (("x-large", "x" * 9000),)
        refused = stub.ListModels(pb.ListModelsRequest(), metadata=large, timeout=60)
        assert await code_of(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub.ListModels(pb.ListModelsRequest(), metadata=(("x-large", "x" * 7000),), timeout=60)


async def test_a_message_over_the_limit_is_refused() -> None:
    async with served(HashingEmbedder(), max_message_bytes=2**16) as (_, stub):
        refused = stub.Embed(pb.EmbedRequest(texts=["x" * 2**17]), timeout=60)
        assert await code_of(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_connections_over_the_limit_are_closed_and_others_are_served() -> None:
    async with served(HashingEmbedder(), max_connections=3) as (address, stub):
        await stub.ListModels(pb.ListModelsRequest(), timeout=60)
        host, _, port = address.rpartition(":")
        many = [socket.create_connection((host, int(port))) for _ in range(20)]
        try:
            await asyncio.to_thread(_until_some_are_closed, many)
            await stub.ListModels(pb.ListModelsRequest(), timeout=60)
        finally:
            for one in many:
                one.close()


def _until_some_are_closed(connections: list[socket.socket]) -> None:
    """Return when the server has closed all but a few: reading gives nothing, or the connection was reset."""
    closed = 0
    for connection in reversed(connections[5:]):
        connection.settimeout(60)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
        closed += 1
    assert closed == len(connections) - 5


async def test_an_error_reveals_nothing_beyond_the_request() -> None:
    """A request id is taken over only when it is short and plain: it goes into logs and to other services."""
    seen: list[str] = []

    async def note(method: str) -> None:
        from services.rpc.observability.logs import caller

        seen.append(dict(caller())["x-request-id"])

    async with served(HashingEmbedder(before=note)) as (_, stub):
        for given in ("abc-1", "x" * 65, 'a"b'):
            await stub.ListModels(pb.ListModelsRequest(), metadata=(("x-request-id", given),), timeout=60)
    assert seen[0] == "abc-1"
    assert all(len(one) == 16 for one in seen[1:])
