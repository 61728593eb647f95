"""Permissions of tokens at the gateway: the same as at the services, on every route."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from sluice.common.v1.document_pb2 import Document
from sluice.retrieval.v1.retrieval_service_pb2 import Schema

from tests.service.rpc.test_tokens import made
from tests.support.fake_services import ExactRetrieval, Stored, retrieval_server, system
from tests.support.gateway import Gateway, gateway
from tests.support.gateway_routes import OPEN, inner_routes, request_of, routes


async def asked(http: httpx.AsyncClient, method: str, path: str, **named: Any) -> httpx.Response:
    """Return the response of a route to a valid request."""
    return await http.request(**request_of(method, path), **named)


@asynccontextmanager
async def stored(tmp_path: Path, lines: str = "", **settings: Any) -> AsyncIterator[Gateway]:
    """Yield a gateway with the collections `public` and `secret`, with tokens if `lines` are given."""
    collections = {name: Stored(Schema(), {"a": Document(document_id="a")}, {"a": ""}) for name in ("public", "secret")}
    if lines:
        (tmp_path / "tokens.yaml").write_text(lines)
        settings["tokens"] = tmp_path / "tokens.yaml"
    async with (
        retrieval_server(ExactRetrieval(collections=collections)) as retrieval,
        gateway(**{"retrieval": retrieval, **settings}) as there,
    ):
        yield there


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_every_route_except_the_open_ones_requires_a_token(tmp_path: Path) -> None:
    _, lines = made("caller")
    async with stored(tmp_path, lines) as there:
        for method, path in await routes():
            status = (await asked(there.http, method, path)).status_code
            assert (status == 401) == (path not in OPEN), (method, path, status)
        assert not there.embedder.calls
        assert not there.reranker.calls


async def test_a_token_of_one_collection_sees_no_other(tmp_path: Path) -> None:
    token, lines = made("caller", "-c", "public", "--write")
    async with stored(tmp_path, lines) as there:
        http, headers = there.http, bearing(token)
        assert (await http.get("/documents/a?collection=public", headers=headers)).status_code == 200
        refused = await http.get("/documents/a?collection=secret", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
        assert (await http.get("/collections/secret", headers=headers)).status_code == 403
        assert (await http.get("/collections/none", headers=headers)).status_code == 403
        listed = (await http.get("/collections", headers=headers)).json()["collections"]
        assert [one["name"] for one in listed] == ["public"]
        for method, path in (("POST", "/documents"), ("DELETE", "/documents"), ("POST", "/search")):
            assert (await asked(http, method, path, headers=headers)).status_code == 403, (method, path)


async def test_a_token_that_may_only_read_changes_nothing(tmp_path: Path) -> None:
    token, lines = made("caller")
    async with stored(tmp_path, lines) as there:
        answer = await asked(there.http, "POST", "/documents", headers=bearing(token))
        assert (answer.status_code, answer.json()["error"]["metadata"]["needs"]) == (403, "write")
        assert (await asked(there.http, "DELETE", "/documents", headers=bearing(token))).status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "hashing", "input": ["word"] * 100}),
        ("/v1/embeddings", {"model": "hashing", "input": [[1]] * 100}),
        ("/v2/embed", {"model": "hashing", "input_type": "search_query", "texts": ["word"] * 90}),
        ("/embed", {"inputs": ["word"] * 100}),
        ("/embed_sparse", {"inputs": ["word"] * 100}),
        ("/embed_all", {"inputs": ["word"] * 100}),
        ("/tokenize", {"inputs": ["word"] * 100}),
        ("/decode", {"ids": [[1]] * 100}),
        ("/rerank", {"query": "word", "texts": ["word"] * 100}),
        ("/v1/rerank", {"query": "word", "documents": ["word"] * 100}),
        ("/v2/rerank", {"model": "overlap", "query": "word", "documents": ["word"] * 100}),
    ],
)
async def test_a_hundred_texts_do_not_pass_a_quota_of_two(tmp_path: Path, path: str, body: Any) -> None:
    token, lines = made("caller", "--texts", "1")
    async with stored(tmp_path, lines) as there:
        answer = await there.http.post(path, json=body, headers=bearing(token))
        assert answer.status_code == 429, answer.text
        assert not there.embedder.calls
        assert not there.reranker.calls


async def test_a_request_is_charged_one_call_and_each_text_once(tmp_path: Path) -> None:
    token, lines = made("caller", "--calls", "0.001", "--texts", "0.001")
    lines += "  calls_burst: 2\n  texts_burst: 1030\n"
    async with stored(tmp_path, lines) as there:
        body = {"model": "hashing", "input": ["word"] * 1030}
        first = await there.http.post("/v1/embeddings", json=body, headers=bearing(token))
        assert first.status_code == 200, first.text
        assert there.embedder.count("Embed") == 5
        second = await there.http.post("/embed", json={"inputs": "a"}, headers=bearing(token))
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) > 1
        third = await there.http.get("/collections", headers=bearing(token))
        assert "calls" in third.json()["error"]["message"]
        assert third.status_code == 429
        assert REGISTRY.get_sample_value("sluice_token_calls_total", {"token": "caller", "outcome": "over_quota"})


async def test_documents_are_charged_while_they_are_streamed(tmp_path: Path) -> None:
    token, lines = made("caller", "--write", "--texts", "100")
    lines += "  texts_burst: 100\n"
    documents = "\n".join(f'{{"id": "d{number}", "text": "text {number}"}}' for number in range(200))
    async with (
        system(listen=f"unix:{tmp_path}/door"),
        stored(tmp_path, lines, orchestrator=f"unix:{tmp_path}/door") as there,
    ):
        headers = bearing(token) | {"content-type": "application/jsonl"}
        url = "/documents?collection=books&create=true"
        # Twice the burst is slowed down, and nothing is lost.
        assert (await there.http.post(url, content=documents, headers=headers)).json()["indexed"] == 200
        # What the stream used is gone from the one quota there is.
        texts = {"inputs": ["word"] * 100}
        assert (await there.http.post("/embed", json=texts, headers=bearing(token))).status_code == 429


async def test_without_tokens_inner_routes_are_closed_while_the_orchestrator_requires_one(tmp_path: Path) -> None:
    token, lines = made("caller")
    (tmp_path / "theirs.yaml").write_text(lines)
    async with (
        system(listen=f"unix:{tmp_path}/door", tokens=tmp_path / "theirs.yaml"),
        stored(tmp_path, orchestrator=f"unix:{tmp_path}/door", inner_routes="follow") as front,
    ):
        for method, path in await inner_routes():
            for headers in ({}, bearing(token)):
                answer = await asked(front.http, method, path, headers=headers)
                assert answer.status_code == 401, (method, path)
        assert not front.embedder.calls
        # What the orchestrator decides on it decides: the caller's token travels on.
        assert (await front.http.get("/pipelines")).status_code == 401
        assert (await front.http.get("/pipelines", headers=bearing(token))).status_code == 200


async def test_without_tokens_inner_routes_open_when_the_orchestrator_is_open(tmp_path: Path) -> None:
    async with (
        system(listen=f"unix:{tmp_path}/door"),
        stored(tmp_path, orchestrator=f"unix:{tmp_path}/door", inner_routes="follow") as front,
    ):
        assert (await asked(front.http, "POST", "/embed")).status_code == 200


async def test_inner_routes_are_closed_until_the_orchestrator_responds(tmp_path: Path) -> None:
    async with stored(tmp_path, inner_routes="follow") as front:
        answer = await asked(front.http, "POST", "/v1/embeddings")
        assert answer.status_code == 503
        assert "--inner-routes" in answer.json()["error"]["message"]
        services = (await front.http.get("/services")).json()["services"]
        assert {one["name"]: one["health"] for one in services}["embedding"] == "SERVING"


async def test_inner_routes_close_when_the_orchestrator_starts_to_require_tokens(tmp_path: Path) -> None:
    _, lines = made("caller")
    (tmp_path / "theirs.yaml").write_text(lines)
    door = f"unix:{tmp_path}/door"
    async with stored(tmp_path, orchestrator=door, inner_routes="follow", reload_s=0.02) as front:
        async with system(listen=door):
            assert (await asked(front.http, "POST", "/embed")).status_code == 200
        assert (await asked(front.http, "POST", "/embed")).status_code == 200  # while it is away, as it was
        async with system(listen=door, tokens=tmp_path / "theirs.yaml"), asyncio.timeout(60):
            while (await asked(front.http, "POST", "/embed")).status_code != 401:  # noqa: ASYNC110 - told over HTTP
                await asyncio.sleep(0.02)
