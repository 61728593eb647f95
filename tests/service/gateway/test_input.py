"""Bodies and heads that are invalid or too large, and responses that are not read: each has an error and a limit."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from sluice.retrieval.v1.retrieval_service_pb2 import Schema

from services.gateway.http.json_input import JsonError, memory_bytes, structure
from tests.support.fake_services import ExactRetrieval, Stored, retrieval_server
from tests.support.gateway import gateway, raw
from tests.support.scripted_search import ScriptedSearch

EMBED = b'{"inputs": %s}'
JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/jsonl"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[1,2,3]", (3, 1)),
        (b'{"a":1,"b":[2]}', (5, 2)),
        (b'"[[[{{{,,,:::"', (0, 0)),
        (rb'["\"[[[", "\\", [1]]', (4, 2)),
        (rb'["\\\"[[", 1]', (2, 1)),
        (b"]]]][", (1, 0)),
        (b"", (0, 0)),
        (b'"' + b"a" * 2**20 + b'[[",[]', (2, 1)),
    ],
)
def test_values_and_levels_are_counted_outside_of_strings(text: bytes, expected: tuple[int, int]) -> None:
    assert structure(text, max_values=100) == expected


@pytest.mark.parametrize("unit", ["1", "1.5", '"a"', '{"a":1}', "[]", "[1]", "null", '{"a":{}}'])
def test_too_many_values_of_any_kind_are_rejected(unit: str) -> None:
    text = f"[{','.join([unit] * 2000)}]".encode()
    with pytest.raises(JsonError, match="1,000 values"):
        memory_bytes(text, max_values=1000)
    # What takes the most for its length is charged with more than it takes.
    assert memory_bytes(text, max_values=100_000) > 10 * len(text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (rb'"\ud800"', "surrogate"),
        (rb'["a", "\udc00\ud800"]', "surrogate"),
        (b"[" * 3000 + b"]" * 3000, "levels"),
        (b"[" * 33 + b"]" * 33, "levels"),
        (b"NaN", "expected JSON"),
        (b"-Infinity", "expected JSON"),
        (b"1e999", "expected JSON"),
        (b'"\xff"', "expected JSON"),
        (b'"\x00"', "expected JSON"),
        (b"[" + b"1," * 2000 + b"1]", "values"),
    ],
)
async def test_the_error_names_what_is_wrong_with_the_json(given: bytes, said: str) -> None:
    async with gateway(max_body_values=1000) as there:
        for key in (EMBED % given, b'{"inputs": "a", "more": %s}' % given):
            answer = await there.http.post("/embed", content=key, headers=JSON)
            assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
            assert said in answer.json()["error"]
        assert not there.embedder.calls


async def test_a_surrogate_in_a_key_is_rejected_too() -> None:
    async with gateway() as there:
        answer = await there.http.post("/embed", content=rb'{"inputs": "a", "\ud800": 1}', headers=JSON)
        assert answer.status_code == 422


BAD_LINES = [
    r'{"id": "x", "text": "\ud800"}',
    r'{"id": "\udfff", "text": "a"}',
    r'{"id": "x", "text": "a", "metadata": {"\ud800": 1}}',
    '{"id": "x", "text": "a", "metadata": {"k": ' + "[" * 900 + "]" * 900 + "}}",
    '{"id": "x", "text": "a", "metadata": {"k": [[1]]}}',
    "[" * 5000,
    '{"id": "x", "text": "a", "metadata": {"k": NaN}}',
    '{"id": "x", "text": "a", "metadata": {"at": "0001-01-01T00:00:00+23:59"}}',
    '{"id": "x", "text": "a", "metadata": {"at": "9999-12-31T23:59:59-23:59"}}',
    "\x00",
    '"\xff',
    '{"id": "x", "text": "a", "metadata": {"k": [' + "1," * 40_000 + "1]}}",
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: line[:50].encode("unicode_escape").decode())
async def test_an_invalid_line_is_one_failure_and_the_stream_continues(bad: str) -> None:
    async with documents(ScriptedSearch()) as there:
        content = b'{"id": "a", "text": "one"}\n' + bad.encode("latin-1") + b'\n{"id": "b", "text": "two"}\n'
        url = "/documents?collection=books&create=true&filterable=at=timestamp"
        answer = await there.post(url, content=content, headers=LINES)
        told = answer.json()
        assert (answer.status_code, told["indexed"], told["failed"]) == (200, 2, 1), told
        assert len(told["failures"][0]["message"]) < 500


async def test_truncated_documents_are_counted() -> None:
    async with documents(ScriptedSearch(dropped={"a": 5, "c": 7})) as there:
        content = b"".join(b'{"id": "%s", "text": "one"}\n' % name for name in (b"a", b"b", b"c"))
        counts = {"indexed": 3, "truncated": 2, "dropped_tokens": 12}
        answer = await there.post("/documents?collection=books&create=true", content=content, headers=LINES)
        assert answer.json().items() >= counts.items()


async def test_an_id_with_a_lone_surrogate_is_reported_in_every_kind_of_response() -> None:
    bad = rb'{"id": "\ud800", "title": "\ud800"}'
    async with documents(ScriptedSearch()) as there:
        url = "/documents?collection=books"
        answer = await there.post(url, content=bad, headers=LINES)
        assert (answer.status_code, answer.json()["failed"]) == (200, 1)
        answer = await there.post(url, content=bad, headers={**LINES, "accept": "text/event-stream"})
        assert (answer.status_code, answer.text.count("event: done")) == (200, 1)
        answer = await there.post(url, content=b"[%s]" % bad, headers=JSON)
        assert answer.status_code == 400
        answer = await there.delete(url + "&id=%ED%A0%80")
        assert answer.status_code == 400


@asynccontextmanager
async def documents(script: ScriptedSearch, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a gateway in front of a scripted search service."""
    retrieval = ExactRetrieval(collections={"books": Stored(Schema())})
    async with (
        script.served() as orchestrator,
        retrieval_server(retrieval) as address,
        gateway(orchestrator=orchestrator, retrieval=address, **settings) as there,
    ):
        yield there.http


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["origin: http://["], 403),
        (["origin: http://a", "origin: http://b"], 422),
        (["authorization: Bearer a\tb"], 401),
        (["authorization: Bearer \xe9"], 401),
        (["authorization: Bearer " + "a" * 5000], 401),
        (["authorization: Bearer a", "authorization: Bearer b"], 422),
        (["content-encoding: gzip"], 415),
        (["content-type: text/plain"], 422),
        (["content-length: 5"], 400),
        (["content-length: -1"], 400),
        (["content-length: \xb2"], 400),
        (["content-length: 99999999999999999999999"], 400),
        (["host: other"], 422),
        (["x-deadline-ms: \xb2"], 422),
        (["x: " + "a" * 40_000], 431),
        ([f"x{number}: a" for number in range(5000)], 431),
    ],
)
async def test_an_invalid_head_is_rejected(headers: list[str], status: int) -> None:
    async with gateway() as there:
        own = [f"host: {there.address}", "content-type: application/json", "content-length: 15", "connection: close"]
        head = "\r\n".join(["POST /embed HTTP/1.1", *own, *headers])
        answer = await asyncio.to_thread(raw, there.address, head.encode("latin-1") + b'\r\n\r\n{"inputs": "a"}')
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert answer.count(b"HTTP/1.1") == 1
        assert not there.embedder.calls


@pytest.mark.parametrize("host", ["[", "[::1", "", "a b", "127.0.0.1:x:y", "evil.example"])
async def test_an_invalid_host_is_rejected(host: str) -> None:
    async with gateway() as there:
        for path in ("/health", "/no/such/path", "/console/none"):
            request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            answer = await asyncio.to_thread(raw, there.address, request.encode())
            assert re.match(rb"HTTP/1.1 4(00|21) ", answer), answer


@pytest.mark.parametrize(
    "target", ["/collections/%ff", "/documents/%ED%A0%80", "/documents/a?collection=%ff", "/documents/a?%c3=1"]
)
async def test_percent_escapes_that_are_not_utf8_are_rejected(target: str) -> None:
    async with gateway() as there:
        request = f"GET {target} HTTP/1.1\r\nhost: {there.address}\r\nconnection: close\r\n\r\n"
        assert (await asyncio.to_thread(raw, there.address, request.encode())).startswith(b"HTTP/1.1 400 ")


async def test_an_error_shows_only_the_beginning_of_the_given_value() -> None:
    async with gateway() as there:
        given = {"inputs": [[{"a": list(range(1000))}] * 10] * 10, "dimensions": {"x": "y" * 10_000}}
        answer = await there.http.post("/embed", json=given)
        assert answer.status_code == 422
        assert len(answer.text) < 1000


async def test_the_memory_of_unacknowledged_documents_is_limited() -> None:
    """A stream is not read while its documents wait, and streams beyond the limit get 503."""
    line = json.dumps({"id": "ID", "text": "x" * 200_000})
    content = "\n".join(line.replace("ID", str(number)) for number in range(40))
    async with documents(ScriptedSearch(keeps_silent=True), max_held_bytes=2**20) as http:
        answer = await http.post("/documents?collection=books", content=content, headers=LINES)
        assert answer.status_code == 413
    more = f"{content}\n" * 3
    # The first of two streams fits, and waits; there is no room for the second.
    script = ScriptedSearch(keeps_silent=True)
    async with documents(script, max_held_bytes=32 * 2**20) as http:
        first = asyncio.ensure_future(http.post("/documents?collection=books", content=more, headers=LINES))
        while sum(script.message_sizes) < 40:  # noqa: ASYNC110 - told by another server, not by an event
            await asyncio.sleep(0.01)
        answer = await http.post("/documents?collection=books", content=more, headers=LINES)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "OVERLOADED")
        assert answer.headers["retry-after"] == "1"
        first.cancel()
    script = ScriptedSearch()
    async with documents(script, max_held_bytes=40 * 2**20) as http:
        for _ in range(3):  # what was acknowledged is memory no longer
            answer = await http.post("/documents?collection=books", content=more, headers=LINES)
            assert answer.status_code == 200, answer.text


async def test_parsed_json_counts_as_memory() -> None:
    async with gateway(max_held_bytes=2**20) as there:
        answer = await there.http.post("/embed", content=EMBED % (b"[" + b"[]," * 30_000 + b"[]]"), headers=JSON)
        assert answer.status_code == 413
        assert (await there.http.post("/embed", json={"inputs": "a" * 60_000})).status_code == 200


# The metric of answers to those who ask for token vectors; other tests of this process count in it too.
ANSWERED = ("sluice_http_requests_total", {"route": "/embed_all", "status": "200"})


def unread(address: str) -> socket.socket:
    """Return a connection that requested 10 MB of vectors, more than the kernel buffers, and reads nothing."""
    body = json.dumps({"inputs": ["word " * 20] * 2048}).encode()
    host, _, port = address.rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    head = f"POST /embed_all HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def rest(connection: socket.socket) -> int:
    """Return the number of bytes until the server closes the connection."""
    size = 0
    with connection, contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            size += len(part)
    return size


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    async with gateway(write_timeout_s=0.2) as there:
        answered = REGISTRY.get_sample_value(*ANSWERED) or 0
        connection = await asyncio.to_thread(unread, there.address)
        while (REGISTRY.get_sample_value(*ANSWERED) or 0) == answered:  # noqa: ASYNC110 - told by a metric
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(rest, connection) < 8_000_000


async def test_unread_responses_make_room_for_others() -> None:
    async with gateway(max_answer_bytes=60 * 2**20) as there:
        silent = [await asyncio.to_thread(unread, there.address) for _ in range(2)]
        async with asyncio.timeout(60):
            body = {"inputs": ["word " * 20] * 2048}
            while (await there.http.post("/embed_all", json=body)).status_code != 200:  # noqa: ASYNC110 - told over HTTP
                await asyncio.sleep(0.05)  # 503 until one of them has read nothing for a second
        for connection in silent:
            connection.close()


async def test_a_response_over_the_whole_budget_is_rejected() -> None:
    async with gateway(max_answer_bytes=2**20) as there:
        answer = await there.http.post("/v1/embeddings", json={"model": "hashing", "input": ["word"] * 2048})
        assert answer.status_code == 413
        assert (await there.http.post("/embed", json={"inputs": "word"})).status_code == 200
