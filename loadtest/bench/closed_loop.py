"""Closed loops over prepared requests: each caller sends its next request when it has the answer."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import grpc
from sluice.cli.console import CommandFailed
from sluice.common.v1.model_pb2 import Lane, TextRole
from sluice.embedding.v1.embedding_service_pb2 import EmbedRequest
from sluice.errors import from_rpc_error
from sluice.reranking.v1.reranking_service_pb2 import RerankRequest

from loadtest.channels import CHANNEL_OPTIONS

EMBED = "/sluice.embedding.v1.EmbeddingService/Embed"
RERANK = "/sluice.reranking.v1.RerankingService/Rerank"
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Driven:
    """Result of a closed loop."""

    calls: int
    seconds: float
    latencies_s: list[float]

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


def embed_requests(texts: Sequence[str], batch: int, lane: str, role: str = "document") -> list[bytes]:
    """Return serialized calls of `batch` texts each."""
    return [
        EmbedRequest(
            texts=texts[start : start + batch],
            role=TextRole.Value(f"TEXT_ROLE_{role.upper()}"),
            lane=Lane.Value(f"LANE_{lane.upper()}"),
        ).SerializeToString()
        for start in range(0, len(texts), batch)
    ]


def rerank_requests(query: str, documents: Sequence[str], batch: int) -> list[bytes]:
    """Return serialized calls of `batch` documents each, for the bulk lane."""
    return [
        RerankRequest(query=query, documents=documents[start : start + batch], lane=Lane.LANE_BULK).SerializeToString()
        for start in range(0, len(documents), batch)
    ]


def all_of(address: str, path: str, requests: Sequence[bytes], callers: int) -> Driven:
    """Send every request once. Raises CommandFailed if one fails."""
    return asyncio.run(_drive(address, path, iter(requests), callers, float("inf")))


def for_seconds(address: str, path: str, requests: Sequence[bytes], callers: int, seconds: float) -> Driven:
    """Send the requests repeatedly for a number of seconds. Raises CommandFailed if one fails."""
    return asyncio.run(_drive(address, path, cycle(requests), callers, seconds))


async def _drive(address: str, path: str, requests: Iterator[bytes], callers: int, seconds: float) -> Driven:
    latencies_s: list[float] = []

    async def caller(method: Any, end: float) -> None:
        for request in requests:
            started = time.perf_counter()
            await method(request, timeout=_TIMEOUT_S)
            latencies_s.append(time.perf_counter() - started)
            if time.perf_counter() > end:
                return

    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        await channel.channel_ready()
        started = time.perf_counter()
        try:
            await asyncio.gather(*(caller(channel.unary_unary(path), started + seconds) for _ in range(callers)))
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            raise CommandFailed(f"{address}{path}: {failure.code.name}: {failure.message}") from None
        return Driven(len(latencies_s), time.perf_counter() - started, latencies_s)
