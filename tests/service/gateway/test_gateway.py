"""The gateway in front of fake services: what it rejects, in which format, and what it sends on."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.model_pb2 import LANE_BULK, LANE_INTERACTIVE
from sluice.errors import BackendFailed, SluiceError, Unauthenticated, Unavailable
from sluice.retrieval.v1.retrieval_service_pb2 import Schema

from services.gateway.settings import GatewaySettings
from tests.support.fake_services import ExactRetrieval, HashingEmbedder, Stored, retrieval_server
from tests.support.faults import always, hang
from tests.support.gateway import events, gateway, raw
from tests.support.scripted_search import ScriptedSearch
from tests.support.waiting import GUARD_S, longer_and_longer

OPENAI = "/v1/embeddings"
CONSOLE = Path(__file__).parents[3] / "services" / "gateway" / "console"
EVIL = {"origin": "http://evil.example"}


def openai(**changes: Any) -> dict[str, Any]:
    return {"model": "hashing", "input": "some words", **changes}


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": []}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": {"text": "a"}}, 400, "input"),
        ({"input": ["a", None]}, 400, "input"),
        ({"dimensions": -1}, 400, "dimensions"),
        ({"dimensions": "many"}, 400, "dimensions"),
        ({"model": ""}, 400, "model"),
        ({"model": "unknown"}, 404, "model"),
    ],
)
async def test_openai_requests_are_rejected_in_the_format_of_openai(
    changes: dict[str, Any], status: int, param: str
) -> None:
    async with gateway() as there:
        answer = await there.http.post(OPENAI, json=openai(**changes))
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v2/embed", {"model": "hashing", "texts": ["a"]}, 400, "input_type"),
        ("/v2/embed", {"model": "hashing", "input_type": "search_query"}, 400, "texts"),
        ("/v2/embed", {"model": "hashing", "input_type": "search_query", "texts": ["a"] * 97}, 400, "texts"),
        ("/v2/embed", {"model": "hashing", "input_type": "x", "texts": ["a"]}, 400, "input_type"),
        ("/v2/rerank", {"model": "overlap", "query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n"),
        ("/v2/rerank", {"model": "overlap", "query": "a"}, 400, "documents"),
        ("/v1/rerank", {"query": "a", "documents": [{"title": "a"}]}, 400, "documents"),
    ],
)
async def test_cohere_requests_are_rejected_in_the_format_of_cohere(
    path: str, body: Any, status: int, field: str
) -> None:
    async with gateway() as there:
        answer = await there.http.post(path, json=body)
        assert answer.status_code == status
        assert answer.json()["message"].startswith(field)
        assert answer.json()["detail"] == answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/embed", {}, 422),
        ("/embed", {"inputs": []}, 422),
        ("/embed", {"inputs": ["a"] * 2049}, 413),
        ("/embed", {"inputs": "a", "prompt_name": "nobody"}, 422),
        ("/embed", {"inputs": "a", "normalize": False}, 422),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422),
        ("/rerank", {"query": "a", "texts": "a"}, 422),
    ],
)
async def test_tei_requests_are_rejected_in_the_format_of_tei(path: str, body: Any, status: int) -> None:
    async with gateway() as there:
        answer = await there.http.post(path, json=body)
        assert answer.status_code == status
        assert answer.json().keys() == {"error", "error_type"}
        assert answer.json()["error_type"] == "Validation"


async def test_invalid_json_and_unknown_routes_are_rejected_in_the_format_of_the_path() -> None:
    async with gateway() as there:
        broken = await there.http.post(OPENAI, content=b"{", headers={"content-type": "application/json"})
        assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
        form = await there.http.post("/embed", data={"inputs": "a"})
        assert (form.status_code, form.json()["error_type"]) == (415, "Validation")
        assert "application/json" in form.json()["error"]
        assert (await there.http.get("/v1/nothing")).json()["error"]["type"] == "invalid_request_error"
        assert (await there.http.get("/nothing")).json()["error"]["code"] == "INVALID_ARGUMENT"
        assert (await there.http.get("/v2/embed")).status_code == 405


OVERLOADED = Unavailable("busy", reason=ErrorReason.ERROR_REASON_OVERLOADED, retry_after_s=1.25)


@pytest.mark.parametrize(
    ("raised", "statuses"),
    [
        (OVERLOADED, (503, 429, 503)),
        (Unavailable("loading"), (503, 503, 503)),
        (BackendFailed("broken"), (500, 424, 500)),
        (Unauthenticated("who?"), (401, 401, 401)),
    ],
)
async def test_failures_have_the_status_of_each_dialect(raised: SluiceError, statuses: tuple[int, ...]) -> None:
    async with gateway(HashingEmbedder(before=always(raised))) as there:
        cohere = {"model": "hashing", "input_type": "search_query", "texts": ["a"]}
        answers = [
            await there.http.post(OPENAI, json=openai()),
            await there.http.post("/embed", json={"inputs": "a"}),
            await there.http.post("/v2/embed", json=cohere),
        ]
        assert tuple(answer.status_code for answer in answers) == statuses
        assert all(raised.message in answer.text for answer in answers)
        if raised is OVERLOADED:
            assert {answer.headers["retry-after"] for answer in answers} == {"2"}
            assert {answer.headers["retry-after-ms"] for answer in answers} == {"1250"}


async def test_many_texts_are_sent_in_several_bulk_calls_and_returned_in_order() -> None:
    async with gateway() as there:
        texts = [f"text number {number}" for number in range(600)]
        many = (await there.http.post(OPENAI, json=openai(input=texts))).json()
        assert [len(request.texts) for _, request in there.embedder.calls] == [256, 256, 88]
        assert {request.lane for _, request in there.embedder.calls} == {LANE_BULK}
        assert many["usage"] == {"prompt_tokens": 1800, "total_tokens": 1800}
        one = (await there.http.post(OPENAI, json=openai(input=texts[300]))).json()
        assert there.embedder.calls[-1][1].lane == LANE_INTERACTIVE
        assert many["data"][300] == {**one["data"][0], "index": 300}


async def test_tei_responses_are_lists_of_numbers() -> None:
    async with gateway() as there:
        dense = (await there.http.post("/embed", json={"inputs": ["a b", "c"]})).json()
        assert [len(row) for row in dense] == [64, 64]
        sparse = (await there.http.post("/embed_sparse", json={"inputs": ["a b", "c"]})).json()
        assert [len(row) for row in sparse] == [2, 1]
        assert sparse[1][0].keys() == {"index", "value"}
        tokens = (await there.http.post("/embed_all", json={"inputs": ["a b", "c"]})).json()
        assert [(len(row), len(row[0])) for row in tokens] == [(2, 64), (1, 64)]


async def test_the_deadline_of_the_header_ends_a_call() -> None:
    async with gateway(HashingEmbedder(before=hang)) as there:
        for deadline_s in longer_and_longer(0.1):
            headers = {"x-deadline-ms": f"{1000 * deadline_s:.0f}"}
            late = await there.http.post(OPENAI, json=openai(), headers=headers)
            assert late.status_code == 504
            # gRPC's own word, or the service's, whichever noticed first.
            assert late.json()["error"]["code"] in {"deadline_exceeded", "deadline_expired"}
            if there.embedder.calls:
                break
        await there.embedder.cancelled.wait()
        wrong = await there.http.post(OPENAI, json=openai(), headers={"x-deadline-ms": "soon"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-deadline-ms")


async def test_the_deadline_is_at_most_that_of_the_gateway() -> None:
    async with gateway(HashingEmbedder(before=hang), max_deadline_s=0.1) as there:
        late = await there.http.post(OPENAI, json=openai(), headers={"x-deadline-ms": "600000"})
        assert late.status_code == 504


async def test_a_client_that_disconnects_cancels_the_call() -> None:
    arrived = asyncio.Event()

    async def before(method: str) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with gateway(HashingEmbedder(before=before)) as there:
        task = asyncio.create_task(there.http.post(OPENAI, json=openai()))
        await arrived.wait()
        task.cancel()
        await asyncio.wait_for(there.embedder.cancelled.wait(), 60)


class Listening(HashingEmbedder):
    """An embedder that records the metadata of the last call."""

    heard: dict[str, Any]

    async def Embed(self, request: Any, context: Any) -> Any:
        self.heard = dict(context.invocation_metadata())
        return await super().Embed(request, context)


async def test_credentials_and_trace_are_sent_on() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with gateway(Listening()) as there:
        assert isinstance(there.embedder, Listening)
        headers = {"authorization": "Bearer secret", "traceparent": trace}
        await there.http.post(OPENAI, json=openai(), headers=headers)
        assert headers.items() <= there.embedder.heard.items()
        await there.http.post(OPENAI, json=openai(), headers={"traceparent": "nonsense"})
        assert not {"authorization", "traceparent"} & there.embedder.heard.keys()


async def test_a_body_over_the_limit_is_rejected_before_it_is_read() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async with gateway(max_body_bytes=100_000) as there:
        told = await there.http.post(OPENAI, json=openai(input="x" * 200_000))
        assert (told.status_code, told.json()["error"]["type"]) == (413, "invalid_request_error")
        try:
            answer = await there.http.post("/embed", content=endless())
        except httpx.TransportError:
            pass  # the connection was closed before the answer was read
        else:
            assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
        assert not there.embedder.calls


async def test_a_body_that_does_not_arrive_times_out() -> None:
    async with gateway(body_timeout_s=0.2) as there:
        head = f"POST /embed HTTP/1.1\r\nhost: {there.address}\r\ncontent-length: 10\r\nconnection: close\r\n\r\n"
        answer = await asyncio.to_thread(raw, there.address, head.encode(), b"123")
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"error_type"' in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", b"408"), (b"GET /health HTTP/1.1\r\nx-slow", b"408"), (b"GET / HTTP/1.1\r\nx: " + b"y" * 5000, b"431")],
)
async def test_a_head_that_is_slow_or_too_large_is_rejected(sent: bytes, status: bytes) -> None:
    # A head that is too large is refused by its size; where that is tested, a busy machine has time to read it.
    async with gateway(head_timeout_s=0.3 if status == b"408" else 60, max_head_bytes=4096) as there:
        assert (await asyncio.to_thread(raw, there.address, sent)).startswith(b"HTTP/1.1 " + status)
    async with gateway(max_head_bytes=4096) as there:
        assert (await there.http.get("/health")).status_code == 200


async def test_a_second_head_on_a_connection_is_timed_too() -> None:
    for timeout_s in longer_and_longer(0.3):
        async with gateway(head_timeout_s=timeout_s) as there:
            first = f"GET /health HTTP/1.1\r\nhost: {there.address}\r\n\r\n".encode()
            answer = await asyncio.to_thread(raw, there.address, first + b"GET /hea")
        assert b"HTTP/1.1 408" in answer
        if answer.startswith(b"HTTP/1.1 200"):
            break


@pytest.mark.parametrize("headers", [EVIL, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}])
async def test_a_page_of_another_site_changes_nothing(headers: dict[str, str]) -> None:
    async with gateway() as there:
        refused = await there.http.post("/documents", json=[], headers=headers)
        assert refused.status_code == 403
        assert (await there.http.delete("/documents?id=a", headers=headers)).status_code == 403
        read = await there.http.get("/health", headers=headers)
        assert not [name for name in read.headers if name.startswith("access-control")]
        assert (await there.http.request("OPTIONS", "/documents", headers=headers)).status_code == 405


async def test_the_console_may_change_data() -> None:
    async with gateway() as there:
        headers = {"origin": f"http://{there.address}", "sec-fetch-site": "same-origin"}
        assert (await there.http.post("/embed", json={"inputs": "a"}, headers=headers)).status_code == 200


async def test_other_host_names_are_rejected_on_a_loopback_address() -> None:
    async with gateway() as there:
        assert (await there.http.get("/", headers={"host": "evil.example"})).status_code == 421
        assert (await there.http.get("/", headers={"host": "localhost:8080"})).status_code == 200
    async with gateway(hosts=["search.example"]) as there:
        assert (await there.http.get("/", headers={"host": "search.example"})).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/console/../settings.py",
        "/console/%2e%2e/settings.py",
        "/console/..%2fsettings.py",
        "/console/%2e%2e%2f%2e%2e%2fmodel%2fbundle.py",
        "/console//etc/passwd",
        "/console/main.js%00",
        "/console/",
        "/../../../../etc/passwd",
    ],
)
async def test_no_path_leaves_the_files_of_the_console(path: str) -> None:
    async with gateway() as there:
        request = f"GET {path} HTTP/1.1\r\nhost: {there.address}\r\nconnection: close\r\n\r\n"
        answer = await asyncio.to_thread(raw, there.address, request.encode())
        assert answer.startswith(b"HTTP/1.1 404"), answer


async def test_every_file_of_the_console_is_served_with_a_strict_policy() -> None:
    async with gateway() as there:
        names = [path.name for path in CONSOLE.iterdir()]
        assert "main.js" in names
        for path in ["/", *(f"/console/{name}" for name in names)]:
            answer = await there.http.get(path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_console_has_no_inline_code_or_style_and_no_other_host() -> None:
    for path in CONSOLE.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), path
        assert set(re.findall(r"https?://[^\s\"'`]*", text)) <= {"http://www.w3.org/2000/svg"}, path
    page = (CONSOLE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)


async def test_a_draining_gateway_finishes_requests_and_closes_connections() -> None:
    for delay_s in longer_and_longer(1.0):
        if await is_draining_announced(delay_s):
            break


async def is_draining_announced(drain_delay_s: float) -> bool:
    """Return whether a draining gateway said so. On a busy machine the delay may be over before the request."""
    arrived, go_on, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def before(method: str) -> None:
        arrived.set()
        await go_on.wait()

    addresses: asyncio.Queue[str] = asyncio.Queue()

    async def serve() -> None:
        embedder = HashingEmbedder(before=before)
        async with gateway(embedder, drain_delay_s=drain_delay_s, drain_grace_s=GUARD_S) as there:
            addresses.put_nowait(there.address)
            await leave.wait()

    served = asyncio.create_task(serve())
    async with httpx.AsyncClient(base_url=f"http://{await addresses.get()}", timeout=GUARD_S, trust_env=False) as http:
        assert (await http.get("/health")).status_code == 200
        under_way = asyncio.create_task(http.post(OPENAI, json=openai()))
        await arrived.wait()
        leave.set()
        seen = False
        with suppress(httpx.TransportError):
            while (await http.get("/health")).status_code == 200:  # noqa: ASYNC110 - told over HTTP, not by an event
                await asyncio.sleep(0.01)
            seen = (await http.get("/health/live")).status_code == 200
        go_on.set()
        assert (await under_way).status_code == 200
    await served
    return seen


async def test_openapi_has_every_route_and_the_metrics_count_them() -> None:
    async with gateway() as there:
        description = (await there.http.get("/openapi.json")).json()
        assert {OPENAI, "/v2/embed", "/v1/rerank", "/rerank", "/search", "/documents"} <= description["paths"].keys()
        await there.http.get("/health")
        await there.http.get("/no/such/path")
        page = (await there.http.get("/metrics")).text
        assert 'sluice_http_requests_total{route="/health",status="200"}' in page
        assert 'sluice_http_requests_total{route="none",status="404"}' in page


async def test_models_of_the_service_that_responds_are_listed() -> None:
    async with gateway() as there:
        listed = (await there.http.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["hashing", "overlap"]
    async with gateway(reranking="127.0.0.1:1") as there:
        listed = (await there.http.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["hashing"]
    async with gateway(HashingEmbedder(before=always(Unavailable("away"))), reranking="127.0.0.1:1") as there:
        assert (await there.http.get("/v1/models")).status_code == 503


MANY = "\n".join(f'{{"id": "d{number}", "text": "text {number}"}}' for number in range(300))
LINES = {"content-type": "application/jsonl"}


@asynccontextmanager
async def indexing(script: ScriptedSearch) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a gateway in front of a scripted search service."""
    retrieval = ExactRetrieval(collections={"books": Stored(Schema())})
    async with (
        script.served() as orchestrator,
        retrieval_server(retrieval) as address,
        gateway(orchestrator=orchestrator, retrieval=address) as there,
    ):
        yield there.http


async def test_a_stream_that_breaks_reports_its_counts() -> None:
    script = ScriptedSearch(breaks=[100, 100])
    async with indexing(script) as http:
        asked = {"headers": LINES | {"accept": "text/event-stream"}, "content": MANY}
        told = events((await http.post("/documents?collection=books", **asked)).text)  # type: ignore[arg-type]
        name, data = told[-1]
        assert (name, data["error"]["code"]) == ("error", "UNAVAILABLE")
        assert 0 < data["indexed"] <= 100
        plain = await http.post("/documents?collection=books", headers=LINES, content=MANY)
        assert plain.status_code == 503
        assert plain.json()["error"]["metadata"].keys() >= {"indexed", "unchanged", "failed"}
        again = (await http.post("/documents?collection=books", headers=LINES, content=MANY)).json()
        assert again["indexed"] + again["unchanged"] == 300


async def test_a_client_that_disconnects_ends_its_index_stream() -> None:
    script = ScriptedSearch(keeps_silent=True)
    async with indexing(script) as http:
        task = asyncio.create_task(http.post("/documents?collection=books", headers=LINES, content=MANY))
        while not script.message_sizes:  # noqa: ASYNC110 - told by another server, not by an event
            await asyncio.sleep(0.01)
        task.cancel()
        assert await asyncio.to_thread(script.ended.wait, 60)


async def test_a_stream_of_documents_that_stalls_is_ended() -> None:
    retrieval = ExactRetrieval(collections={"books": Stored(Schema())})
    async with (
        ScriptedSearch().served() as orchestrator,
        retrieval_server(retrieval) as address,
        gateway(orchestrator=orchestrator, retrieval=address, body_timeout_s=0.2) as there,
    ):
        head = (
            f"POST /documents?collection=books HTTP/1.1\r\nhost: {there.address}\r\n"
            "content-type: application/jsonl\r\ncontent-length: 1000\r\n\r\n"
        )
        answer = await asyncio.to_thread(raw, there.address, head.encode(), b'{"id": "a", "text": "b"}\n')
        assert answer.startswith(b"HTTP/1.1 408")


async def test_a_service_that_hangs_does_not_hide_the_others() -> None:
    async with gateway(HashingEmbedder(before=hang)) as there:
        serving = False
        while not serving:  # on a busy machine, one that does not hang may be late too
            services = {one["name"]: one for one in (await there.http.get("/services")).json()["services"]}
            assert services["embedding"]["models"] == []
            assert services["retrieval"]["health"] != "SERVING"
            serving = services["reranking"]["health"] == "SERVING"


@pytest.mark.parametrize("scrape", ["http://10.0.0.1:80", "a=http://10.0.0.1:80", "a=b", "a=user@host:80", "=h:80"])
def test_only_addresses_are_scraped(scrape: str) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(scrape=[scrape])
