"""Calls that need no token: limited separately, and ended without failed calls of clients that check health."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceStub,
    add_EmbeddingServiceServicer_to_server,
)

from services.rpc.server.lifecycle import Service, serving
from services.rpc.settings import ServerSettings
from tests.support.fake_services import HashingEmbedder, embedding_server

NAME = "sluice.embedding.v1.EmbeddingService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# A guard against hanging.
TIMEOUT_S = 60


def watch(channel: grpc.aio.Channel, name: str = "") -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=600)


def silent(channel: grpc.aio.Channel, method: str) -> Any:
    """A call that sends no message."""

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    call: Any = channel.stream_stream(method)
    return call(nothing(), timeout=600)


async def answered(call: Any) -> int:
    async with asyncio.timeout(TIMEOUT_S):
        response = await call.read()
    assert response is not grpc.aio.EOF, await call.code()
    return int(response.status)


async def code(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(TIMEOUT_S):
        return await call.code()  # type: ignore[no-any-return]


async def check(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)).status)


async def list_models(channel: grpc.aio.Channel) -> None:
    await EmbeddingServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S)


def channels(address: str, count: int) -> list[grpc.aio.Channel]:
    """Channels that share no connection."""
    return [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), ("of.its.own", number)])
        for number in range(count)
    ]


async def test_watches_use_their_own_slots_and_displace_the_oldest() -> None:
    async with embedding_server(HashingEmbedder(), max_calls=1, max_open_calls=4) as address:
        first, *others = channels(address, 5)
        old = watch(first)
        assert await answered(old) == SERVING
        newer = [watch(channel) for channel in others for _ in range(2)]
        for call in newer[-4:]:
            assert await answered(call) == SERVING
        assert await code(old) is UNAVAILABLE
        await list_models(first)
        assert await check(first) == SERVING
        again = watch(first)
        assert await answered(again) == SERVING
        for channel in (first, *others):
            await channel.close()


async def test_a_connection_over_its_limit_loses_its_own_oldest_watch_only() -> None:
    async with embedding_server(HashingEmbedder(), max_open_connection_calls=2) as address:
        greedy, other = channels(address, 2)
        kept = watch(other)
        assert await answered(kept) == SERVING
        calls = []
        for _ in range(5):
            calls.append(watch(greedy))
            assert await answered(calls[-1]) == SERVING
        assert [await code(call) for call in calls[:3]] == [UNAVAILABLE] * 3
        assert not any(call.done() for call in (kept, *calls[3:]))
        for channel in (greedy, other):
            await channel.close()


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_calls_without_a_message_are_displaced_too(method: str) -> None:
    async with (
        embedding_server(HashingEmbedder(), max_open_calls=3) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        calls = [silent(channel, method) for _ in range(6)]
        codes = [asyncio.create_task(code(call)) for call in calls]
        first = asyncio.as_completed(codes)
        assert [await next(first) for _ in range(3)] == [UNAVAILABLE] * 3
        assert await check(channel) == SERVING
        await list_models(channel)
        for call in calls:
            call.cancel()
        await asyncio.gather(*codes, return_exceptions=True)


async def test_a_watch_displaced_before_its_message_arrives_is_answered_first() -> None:
    """A client that checks health calls again at once only when the ended watch had an answer."""
    async with embedding_server(HashingEmbedder(), max_open_calls=1) as address:
        first, second = channels(address, 2)
        send = asyncio.Event()

        async def late() -> AsyncIterator[bytes]:
            await send.wait()
            yield b""

        method: Any = first.stream_stream("/grpc.health.v1.Health/Watch")
        slow = method(late(), timeout=600)
        await open_calls(1)
        newer = watch(second)
        assert await answered(newer) == SERVING
        assert not slow.done()
        send.set()
        async with asyncio.timeout(TIMEOUT_S):
            assert health_pb2.HealthCheckResponse.FromString(await slow.read()).status == SERVING
        assert await code(slow) is UNAVAILABLE
        assert not newer.done()
        for channel in (first, second):
            await channel.close()


async def test_a_watch_that_expires_is_resumed_without_a_failed_call() -> None:
    """By gRPC's own client-side health checking: calls run throughout, and none waits for a server to be ready."""
    config = {"healthCheckConfig": {"serviceName": NAME}, "loadBalancingConfig": [{"round_robin": {}}]}
    before = ended("lifetime")
    async with embedding_server(HashingEmbedder(), max_watch_s=0.02) as address:
        options = [("grpc.service_config", json.dumps(config))]
        async with grpc.aio.insecure_channel(f"ipv4:{address}", options=options) as channel:
            calls = 0
            async with asyncio.timeout(TIMEOUT_S):
                while ended("lifetime") - before < 20 or calls < 300:
                    await list_models(channel)
                    calls += 1


async def test_displaced_watches_are_resumed_without_a_failed_call() -> None:
    """Two clients that check health share a single place: each takes it from the other all the time."""
    config = {"healthCheckConfig": {"serviceName": NAME}, "loadBalancingConfig": [{"round_robin": {}}]}
    before = ended("displaced")
    async with embedding_server(HashingEmbedder(), max_open_calls=1) as address:
        pair = [
            grpc.aio.insecure_channel(
                f"ipv4:{address}",
                options=[("grpc.service_config", json.dumps(config)), ("grpc.use_local_subchannel_pool", 1)],
            )
            for _ in range(2)
        ]
        async with asyncio.timeout(TIMEOUT_S):
            while ended("displaced") - before < 20:
                await asyncio.gather(*map(list_models, pair))
        for channel in pair:
            await channel.close()


async def open_calls(count: int) -> None:
    """Wait until so many calls hold a place."""
    async with asyncio.timeout(TIMEOUT_S):
        while REGISTRY.get_sample_value("sluice_open_calls_in_flight") != count:  # noqa: ASYNC110 - seen in a metric
            await asyncio.sleep(0.01)


def ended(reason: str) -> float:
    return REGISTRY.get_sample_value("sluice_open_calls_ended_total", {"reason": reason}) or 0.0


@asynccontextmanager
async def with_problem(problem: list[str], **settings: Any) -> AsyncIterator[str]:
    @asynccontextmanager
    async def build() -> AsyncIterator[Sequence[Service]]:
        def register(server: grpc.aio.Server) -> None:
            embedder: Any = HashingEmbedder()
            add_EmbeddingServiceServicer_to_server(embedder, server)

        yield [Service(NAME, register, problem=lambda: problem[0])]

    async with serving(ServerSettings(listen="127.0.0.1:0", **settings), build) as running:
        yield running.address


async def test_a_watch_sees_changes_after_another_of_its_name_has_ended() -> None:
    problem = [""]
    async with with_problem(problem) as address, grpc.aio.insecure_channel(address) as channel:
        stays, goes = watch(channel, NAME), watch(channel, NAME)
        assert [await answered(stays), await answered(goes)] == [SERVING, SERVING]
        goes.cancel()
        await code(goes)
        problem[0] = "broken"
        assert await answered(stays) == NOT_SERVING


async def test_a_watch_does_not_delay_the_end_of_a_server() -> None:
    async with with_problem([""], drain_grace_s=3600) as address:
        channel = grpc.aio.insecure_channel(address)
        call = watch(channel)
        assert await answered(call) == SERVING
    assert await answered(call) == NOT_SERVING
    assert await code(call) is UNAVAILABLE
    await channel.close()


async def test_watches_do_not_starve_the_checks_of_the_health_port(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with with_problem([""], health_listen="127.0.0.1:0", max_open_calls=20):
        (address,) = [vars(record)["address"] for record in caplog.records if record.message == "serving health"]
        some = channels(address, 5)
        calls = [watch(channel) for channel in some for _ in range(30)]
        probe = grpc.aio.insecure_channel(address)
        for _ in range(50):
            assert await check(probe) == SERVING
        for call in calls:
            call.cancel()
        for channel in (probe, *some):
            await channel.close()
