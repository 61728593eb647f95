"""The gateway with third-party clients: the packages of OpenAI and Cohere, unchanged."""

import asyncio
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import openai
import pytest
from sluice.client import EmbeddingClient, RerankingClient

from tests.support.gateway import events, gateway_of
from tests.support.system import System, running_system

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "services" / "gateway" / "README.md").read_text()
QUERY = "how do I read a csv file?"
DOCUMENTS = ["Boil the water for the tea.", "csv.reader reads rows of a CSV file.", "A queue of items."]


@pytest.fixture(scope="module")
def system(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("gateway"), minilm_bundle) as system:
        yield system


@pytest.fixture(scope="module")
def base(system: System) -> Iterator[str]:
    """The gateway's URL."""
    with gateway_of(system) as process:
        yield f"http://{process.address}"


@pytest.fixture
def http(base: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def model(http: httpx.Client) -> str:
    name: str = http.get("/v1/models").json()["data"][0]["id"]
    return name


def native(system: System, texts: list[str]) -> Any:
    with EmbeddingClient(system.processes["embedding"].address) as client:
        return np.asarray(client.embed(texts, role="document").dense)


def test_openai_embeds_as_grpc_does(base: str, model: str, system: System) -> None:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none") as client:
        answer = client.embeddings.create(model=model, input=DOCUMENTS)
        np.testing.assert_allclose([one.embedding for one in answer.data], native(system, DOCUMENTS), atol=1e-6)
        assert answer.usage.total_tokens > 10
        floats = client.embeddings.create(model=model, input=DOCUMENTS[0], encoding_format="float")
        np.testing.assert_allclose(floats.data[0].embedding, answer.data[0].embedding, atol=1e-6)
        as_query = client.embeddings.create(model=model, input=QUERY, extra_body={"input_type": "query"})
        assert len(as_query.data[0].embedding) == 384
        assert [one.id for one in client.models.list()] == [model]


def test_openai_asks_for_base64_by_default(base: str, model: str) -> None:
    sent: list[Any] = []
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none") as client:
        real = client.post

        def seen(path: str, *, body: Any = None, **options: Any) -> Any:
            sent.append(body)
            return real(path, body=body, **options)

        client.embeddings._post = seen
        client.embeddings.create(model=model, input="a")
    assert sent[0]["encoding_format"] == "base64"


@pytest.mark.parametrize(
    ("changes", "raised", "param"),
    [
        ({"model": "text-embedding-3-small"}, openai.NotFoundError, "model"),
        ({"dimensions": 100}, openai.BadRequestError, "dimensions"),
        ({"input": [f"text {number}" for number in range(300)] + [" "]}, openai.BadRequestError, "input[300]"),
        ({"input": ["a"] * 2049}, openai.BadRequestError, "input"),
        ({"input": [101, 30_522]}, openai.BadRequestError, "input[0][1]"),
        ({"input": [[101], [-1]]}, openai.BadRequestError, "input"),
        ({"input": [[101]] * 300 + [[99_999]]}, openai.BadRequestError, "input[300][0]"),
    ],
)
def test_openai_raises_its_usual_errors(
    base: str, model: str, changes: dict[str, Any], raised: type[openai.APIStatusError], param: str
) -> None:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(raised) as caught:
            client.embeddings.create(**{"model": model, "input": "a", **changes})
        assert caught.value.param == param


def test_openai_from_asyncio(base: str, model: str) -> None:
    async def embed() -> int:
        async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(client.embeddings.create(model=model, input=f"text {number}") for number in range(20))
            )
            return len({tuple(answer.data[0].embedding) for answer in answers})

    assert asyncio.run(embed()) == 20


def test_cohere_embeds_in_each_type(base: str, model: str, system: System) -> None:
    forms = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    with httpx.Client(trust_env=False) as own:
        client = cohere.ClientV2(api_key="none", base_url=base, httpx_client=own)
        answer = client.embed(model=model, input_type="search_document", texts=DOCUMENTS, embedding_types=forms)
    vectors = native(system, DOCUMENTS)
    found = answer.embeddings
    np.testing.assert_allclose(np.array(found.float_), vectors, atol=1e-6)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in found.base64 or ()]
    np.testing.assert_allclose(decoded, vectors, atol=1e-6)
    assert found.int8 is not None
    assert found.ubinary is not None
    assert found.binary is not None
    assert found.uint8 is not None
    cosines = [np.dot(a, b) / np.linalg.norm(a) for a, b in zip(np.array(found.int8, "f4"), vectors, strict=True)]
    assert min(cosines) > 0.999
    assert np.array_equal(np.array(found.uint8) - 128, found.int8)
    assert np.array_equal(np.unpackbits(np.array(found.ubinary, np.uint8), axis=1), vectors > 0)
    assert np.array_equal(np.array(found.binary) + 128, found.ubinary)


def test_cohere_reranks_as_grpc_does(base: str, model: str, system: System) -> None:
    with RerankingClient(system.processes["reranking"].address) as direct:
        wanted = [(one.index, one.score) for one in direct.rerank(QUERY, DOCUMENTS)]
    with httpx.Client(trust_env=False) as own:
        client = cohere.ClientV2(api_key="none", base_url=base, httpx_client=own)
        found = client.rerank(model=model, query=QUERY, documents=DOCUMENTS)
        assert [one.index for one in found.results] == [index for index, _ in wanted]
        np.testing.assert_allclose([one.relevance_score for one in found.results], [s for _, s in wanted], atol=1e-5)
        assert len(client.rerank(model=model, query=QUERY, documents=DOCUMENTS, top_n=1).results) == 1
        assert len(client.rerank(model=model, query=QUERY, documents=DOCUMENTS, top_n=9).results) == 3
        with pytest.raises(cohere.NotFoundError):
            client.rerank(model="unknown", query=QUERY, documents=DOCUMENTS)
        with pytest.raises(cohere.BadRequestError):
            client.rerank(model=model, query=" ", documents=DOCUMENTS)


def test_cohere_of_version_1_and_jina_share_a_path(base: str, model: str, http: httpx.Client) -> None:
    with httpx.Client(trust_env=False) as own:
        client = cohere.Client(api_key="none", base_url=base, httpx_client=own)
        plain = client.rerank(model=model, query=QUERY, documents=DOCUMENTS)
        assert [one.document for one in plain.results] == [None] * 3
        told = client.rerank(model=model, query=QUERY, documents=[{"text": DOCUMENTS[1]}], return_documents=True)
        assert told.results[0].document is not None
        assert told.results[0].document.text == DOCUMENTS[1]
    jina = http.post("/v1/rerank", json={"model": model, "query": QUERY, "documents": DOCUMENTS, "top_n": 2}).json()
    assert [one["document"]["text"] for one in jina["results"]] == [DOCUMENTS[one["index"]] for one in jina["results"]]
    assert jina["usage"]["total_tokens"] > 0
    assert jina["model"] == model


def test_tei_routes_answer_as_tei_does(http: httpx.Client, system: System) -> None:
    vectors = native(system, DOCUMENTS)
    np.testing.assert_allclose(http.post("/embed", json={"inputs": DOCUMENTS}).json(), vectors, atol=1e-6)
    np.testing.assert_allclose(http.post("/embed", json={"inputs": DOCUMENTS[0]}).json(), vectors[:1], atol=1e-6)
    tokens = http.post("/embed_all", json={"inputs": DOCUMENTS}).json()
    assert {len(row) for text in tokens for row in text} == {384}
    ranked = http.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert (ranked[0]["index"], ranked[0]["text"]) == (1, DOCUMENTS[1])
    refused = http.post("/embed", json={"inputs": "word " * 2000, "truncate": False})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    assert http.post("/embed_sparse", json={"inputs": "a"}).status_code == 422
    info = http.get("/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("all-MiniLM-L6-v2", 256)


def test_token_ids_are_embedded_as_their_text(base: str, model: str, http: httpx.Client) -> None:
    told = http.post("/tokenize", json={"inputs": [DOCUMENTS[0], "tea"], "add_special_tokens": True}).json()
    assert [token["text"] for token in told[1]] == ["[CLS]", "tea", "[SEP]"]
    assert told[1][1] == {"id": told[1][1]["id"], "text": "tea", "special": False, "start": 0, "stop": 3}
    assert told[1][0]["start"] is None
    ids = [[token["id"] for token in text] for text in told]
    assert http.post("/decode", json={"ids": ids}).json() == ["boil the water for the tea.", "tea"]
    assert http.post("/decode", json={"ids": ids[1], "skip_special_tokens": False}).json() == ["[CLS] tea [SEP]"]
    refused = http.post("/decode", json={"ids": [10**6]})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none") as client:
        by_ids = client.embeddings.create(model=model, input=ids)
        by_text = client.embeddings.create(model=model, input=[DOCUMENTS[0], "tea"])
        for one, other in zip(by_ids.data, by_text.data, strict=True):
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
        assert len(client.embeddings.create(model=model, input=ids[0]).data) == 1


LINES = [
    {"id": "a/1", "title": "Ore", "text": "Ore is washed in a channel.", "metadata": {"year": 1850}},
    {"id": "b", "text": "A queue of items.", "metadata": {"year": 1999}},
]


def test_documents_are_indexed_found_and_deleted(http: httpx.Client) -> None:
    there = {"collection": "mining", "create": "true", "filterable": "year=number"}
    lines = "\n".join([*map(json.dumps, LINES), "no json", '{"text": "no id"}'])
    told = http.post(
        "/documents",
        params=there,
        content=lines,
        headers={"content-type": "application/x-ndjson", "accept": "text/event-stream"},
    )
    assert told.headers["content-type"] == "text/event-stream"
    names, data = zip(*events(told.text), strict=True)
    assert names[0] == "progress"
    assert names[-1] == "done"
    assert {name: data[-1][name] for name in ("indexed", "unchanged", "failed")} == {
        "indexed": 2,
        "unchanged": 0,
        "failed": 2,
    }
    assert [failure["line"] for failure in data[-1]["failures"]] == [3, 4]

    again = http.post("/documents", params=there, json={"documents": LINES}).json()
    expected = {"indexed": 0, "unchanged": 2, "failed": 0, "failures": [], "truncated": 0, "dropped_tokens": 0}
    assert again == expected
    assert http.get("/documents/a/1", params={"collection": "mining"}).json()["title"] == "Ore"
    assert http.get("/documents/none", params={"collection": "mining"}).status_code == 404
    [listed] = http.get("/collections").json()["collections"]
    assert (listed["name"], listed["document_count"], listed["filterable_fields"]) == ("mining", 2, {"year": "number"})
    assert http.get("/collections/mining").json() == listed

    found = http.post("/search", json={"query": "ore", "collection": "mining", "filter": "year < 1900"}).json()
    assert [result["document"]["document_id"] for result in found["results"]] == ["a/1"]
    assert {stage["name"] for stage in found["stages"]} == {"embed", "dense", "rerank"}
    wrong = http.post("/search", json={"query": "ore", "collection": "mining", "filter": "year <"})
    assert (wrong.status_code, wrong.json()["error"]["violations"][0]["field"]) == (400, "filter")

    deleted = http.delete("/documents", params={"collection": "mining", "filter": "year > 1900"}).json()
    assert deleted == {"deleted_count": 1}
    assert http.delete("/documents", params={"collection": "mining"}).status_code == 400


def test_documents_for_a_missing_collection_are_rejected_before_they_are_read(http: httpx.Client) -> None:
    for accept in ("application/json", "text/event-stream"):
        answer = http.post("/documents?collection=nowhere", json=LINES, headers={"accept": accept})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "UNKNOWN_COLLECTION")
    assert http.post("/documents?collection=BAD&create=true", json=LINES).status_code == 400
    assert http.post("/documents?collection=c&create=true&filterable=year", json=LINES).status_code == 400
    assert http.post("/documents?collection=c&create=true", json={"text": "a"}).status_code == 400
    endless = http.post(
        "/documents?collection=c&create=true", content=b"x" * 2**21, headers={"content-type": "application/jsonl"}
    )
    assert endless.status_code == 413


def test_the_services_report_their_health_and_models(http: httpx.Client) -> None:
    services = {one["name"]: one for one in http.get("/services").json()["services"]}
    assert {name: one["health"] for name, one in services.items()} == dict.fromkeys(
        ("orchestrator", "embedding", "retrieval", "reranking"), "SERVING"
    )
    assert services["embedding"]["models"][0]["execution_provider"] == "CPUExecutionProvider"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_page_works(code: str, base: str) -> None:
    code = code.replace("http://127.0.0.1:50054", base)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_commands_of_the_page_work(block: str, base: str, tmp_path: Path) -> None:
    code = block.replace("http://127.0.0.1:50054", base).replace("curl -s", "curl --fail-with-body -s")
    result = subprocess.run(["bash", "-ec", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert '"error"' not in result.stdout
