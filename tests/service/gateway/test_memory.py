"""Requests leave no memory behind in the gateway, whether they succeed or fail, even without a garbage collection."""

import asyncio
import gc
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
from sluice.client.filters import where
from sluice.retrieval.v1.retrieval_service_pb2 import Schema

from tests.support.fake_services import ExactRetrieval, Stored, retrieval_server
from tests.support.gateway import gateway
from tests.support.scripted_search import ScriptedSearch

MB = 2**20
SIZE = 4 * MB
REQUESTS = 6
TEXT = b'"%s"' % (b"x" * SIZE)
JSON = "application/json"
LINES = "application/jsonl"
DOCUMENTS = "/documents?collection=books"
REFUSED = {
    "no JSON": ("/embed", JSON, b'{"inputs": %s}' % (b"1" * SIZE)),
    "too many values": ("/embed", JSON, b'{"inputs": [%s1]}' % (b"1," * (SIZE // 2))),
    "too deep": ("/embed", JSON, b"[" * SIZE),
    "no JSON's type": ("/embed", "text/plain", TEXT),
    "another shape": ("/embed", JSON, b'{"inputs": {"a": %s}}' % TEXT),
    "a missing field": ("/v1/embeddings", JSON, b'{"input": %s}' % TEXT),
    "another item": ("/v2/rerank", JSON, b'{"model": "m", "query": "a", "documents": [%s, 1]}' % TEXT),
    "too long a text": ("/embed", JSON, b'{"inputs": %s}' % TEXT),
    "too long a query": ("/search", JSON, b'{"query": %s}' % TEXT),
    "no route": ("/none", JSON, TEXT),
    "documents that are no JSON": (DOCUMENTS, JSON, b"1" * SIZE),
    "documents that are no list": (DOCUMENTS, JSON, TEXT),
    "too long a line": (DOCUMENTS, LINES, TEXT),
}


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Trace memory without garbage collection. Yield a function that returns the growth in bytes."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()


def asked(address: str, path: str, kind: str, body: bytes, *, is_reset: bool = False) -> socket.socket:
    """Return a connection whose request got an error."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 4")
    if is_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    return connection


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until the gateway has finished its work after a response."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - told by the memory, not by an event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Yield the address of a gateway with a collection."""
    retrieval = ExactRetrieval(collections={"books": Stored(Schema())})
    async with (
        retrieval_server(retrieval) as address,
        ScriptedSearch().served() as orchestrator,
        gateway(retrieval=address, orchestrator=orchestrator) as there,
    ):
        yield there.address


@pytest.mark.parametrize("name", REFUSED)
async def test_idle_connections_keep_nothing_of_rejected_bodies(name: str) -> None:
    path, kind, body = REFUSED[name]
    async with serving() as address:
        (await asyncio.to_thread(asked, address, path, kind, body)).close()
        with growth() as grown:
            waiting = [await asyncio.to_thread(asked, address, path, kind, body) for _ in range(REQUESTS)]
            await until(lambda: grown() < SIZE)
            for connection in waiting:
                connection.close()


async def test_reset_connections_keep_nothing() -> None:
    async with gateway(keep_alive_s=3600) as there:
        (await asyncio.to_thread(asked, there.address, *REFUSED["no JSON"])).close()
        protocols = connections()
        for _ in range(REQUESTS):
            await asyncio.to_thread(asked, there.address, *REFUSED["no JSON"], is_reset=True)
        await until(lambda: connections() <= protocols)


def connections() -> int:
    """Return the number of connections of gateways that are in memory."""
    gc.collect()
    return sum(type(one).__name__ == "LimitedConnection" for one in gc.get_objects())


async def test_a_client_that_disconnects_leaves_no_documents() -> None:
    async with serving() as address:
        with growth() as grown:
            for _ in range(REQUESTS):
                await asyncio.to_thread(send_half, address)
            await until(lambda: grown() < SIZE)


def send_half(address: str) -> None:
    """Send half of a body and disconnect."""
    host, _, port = address.rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        head = f"POST {DOCUMENTS} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {JSON}\r\n"
        connection.sendall(f"{head}content-length: {2 * SIZE}\r\n\r\n".encode() + TEXT)


@pytest.mark.parametrize(
    ("path", "around", "field"),
    [
        ("/embed", '{"inputs": ["a", %s]}', "inputs[1]"),
        ("/embed_sparse", '{"inputs": %s}', "inputs[0]"),
        ("/v1/embeddings", '{"model": "hashing", "input": %s}', "input[0]"),
        ("/v2/embed", '{"model": "hashing", "input_type": "search_query", "texts": [%s]}', "texts[0]"),
        ("/rerank", '{"query": "a", "texts": ["a", %s]}', "texts[1]"),
        ("/rerank", '{"query": %s, "texts": ["a"]}', "query"),
        ("/v1/rerank", '{"query": "a", "documents": [{"text": %s}]}', "documents[0]"),
        ("/v2/rerank", '{"model": "m", "query": "a", "documents": [%s]}', "documents[0]"),
        ("/search", '{"query": %s}', "query"),
        ("/search", '{"query": "a", "more_queries": ["b", %s]}', "more_queries[1]"),
    ],
)
async def test_a_text_over_the_limit_is_not_sent_on(path: str, around: str, field: str) -> None:
    script = ScriptedSearch()
    async with script.served() as orchestrator, gateway(orchestrator=orchestrator, max_text_bytes=1000) as there:
        for text in ("x" * 1001, "é" * 501):
            body = (around % f'"{text}"').encode()
            answer = await there.http.post(path, content=body, headers={"content-type": JSON})
            size = len(text.encode())
            assert answer.status_code in (400, 422)
            assert f"{field}: expected at most 1,000 bytes of UTF-8, got {size:,}" in answer.text
        assert not there.embedder.calls
        assert not there.reranker.calls
        assert not [one for one in script.requests if one.DESCRIPTOR.name == "SearchRequest"]


async def test_calls_with_token_ids_are_limited() -> None:
    async with gateway() as there:
        answer = await there.http.post("/decode", json={"ids": [[1], [2] * 262_145]})
        assert (answer.status_code, there.embedder.calls) == (422, [])
        assert "ids: expected at most 262,144 token ids per text, got 262,145" in answer.text
        answer = await there.http.post("/tokenize", json={"inputs": ["a" * 60_000] * 5})
        assert (answer.status_code, there.embedder.calls) == (422, [])
        assert "inputs: expected at most 262,144 characters in all texts together, got 300,000" in answer.text


async def test_long_filters_are_parsed_like_short_ones() -> None:
    script = ScriptedSearch()
    text = "kind in (" + ", ".join(f"'{number}'" for number in range(1000)) + ")"
    async with script.served() as orchestrator, gateway(orchestrator=orchestrator) as there:
        assert (await there.http.post("/search", json={"query": "a", "filter": text})).status_code == 200
        assert script.requests[-1].filter == where(text)
        answer = await there.http.post("/search", json={"query": "a", "filter": text + " and"})
        assert answer.status_code == 400
        assert "filter" in answer.text
        assert (await there.http.request("DELETE", "/documents", params={"filter": text})).status_code == 200
        assert script.requests[-1].filter == where(text)
