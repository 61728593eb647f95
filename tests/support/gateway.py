"""Gateways for tests: in this process with fake services, and as a process in front of a running system."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from services.gateway.server import serving
from services.gateway.settings import GatewaySettings
from tests.support.fake_services import HashingEmbedder, OverlapReranker, embedding_server, reranking_server
from tests.support.processes import ServerProcess, running
from tests.support.system import System


@dataclass
class Gateway:
    """A gateway with fake services, and an HTTP client of it."""

    address: str
    http: httpx.AsyncClient
    embedder: HashingEmbedder
    reranker: OverlapReranker


@asynccontextmanager
async def gateway(embedder: HashingEmbedder | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    """Yield a gateway with these settings. By default its orchestrator and retrieval are unreachable."""
    embedder, reranker = embedder or HashingEmbedder(), OverlapReranker()
    async with embedding_server(embedder) as embedding, reranking_server(reranker) as reranking:
        given = {
            "listen": "127.0.0.1:0",
            "embedding": embedding,
            "reranking": reranking,
            "orchestrator": "127.0.0.1:1",
            "retrieval": "127.0.0.1:1",
            "inner_routes": "open",
            **settings,
        }
        async with serving(GatewaySettings(**given)) as served:
            base = f"http://{served.address}"
            async with httpx.AsyncClient(base_url=base, timeout=60, trust_env=False) as http:
                yield Gateway(served.address, http, embedder, reranker)


@contextmanager
def gateway_of(system: System, *arguments: str) -> Iterator[ServerProcess]:
    """Yield a gateway process in front of a running system."""
    places = [f"--{name}={process.address}" for name, process in system.processes.items()]
    ready = {name: process.events() for name, process in system.processes.items()}
    pages = {name: event["metrics"] for name, log in ready.items() for event in log if event.get("metrics")}
    places += [f"--scrape={name}={page}" for name, page in pages.items()]
    with running("services.gateway", *places, *arguments) as process:
        yield process


def raw(address: str, *parts: bytes) -> bytes:
    """Send bytes and return the response until the server closes the connection."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while received := connection.recv(65_536):
            answer += received
    return answer


def events(text: str) -> list[tuple[str, Any]]:
    """Return the name and JSON of each server-sent event."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
