"""One search is one trace, through four processes; and what does not work with the collector slows nobody."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from sluice.client import Document, EmbeddingClient, SearchClient
from sluice.errors import NotFound

from tests.support.otlp_collector import Collector, ReceivedSpan, otlp_collector
from tests.support.processes import ROOT, ServerProcess, StartRefused, running, start
from tests.support.waiting import until

pytestmark = pytest.mark.slow

SEARCH = "sluice.search.v1.SearchService/Search"
EMBED = "sluice.embedding.v1.EmbeddingService/Embed"
RETRIEVE = "sluice.retrieval.v1.RetrievalService/Retrieve"
RERANK = "sluice.reranking.v1.RerankingService/Rerank"


@contextmanager
def traced_system(home: Path, bundle: Path, collector: str) -> Iterator[dict[str, ServerProcess]]:
    tracing = ["--otlp-endpoint", collector]
    arguments = {
        "embedding": ["--bundles", str(bundle)],
        "retrieval": ["--data", str(home / "data")],
        "reranking": ["--bundles", str(bundle)],
    }
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(running(f"services.{name}", *own, *tracing)) for name, own in arguments.items()
        }
        places = [f"--{name}={process.address}" for name, process in processes.items()]
        processes["orchestrator"] = stack.enter_context(
            running("services.orchestrator", *places, *tracing, "--log-level=debug")
        )
        yield processes


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with otlp_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def system(
    collector: Collector, tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ServerProcess]]:
    home = tmp_path_factory.mktemp("traces")
    with traced_system(home, tiny_bi_encoder, f"http://{collector.address}") as processes:
        with SearchClient(processes["orchestrator"].address, timeout_s=60) as client:
            documents = [Document(f"d{n}", f"the {n} of a river") for n in range(5)]
            assert {known.outcome for known in client.index("books", documents, create=True)} == {"indexed"}
        yield processes


def traced(call: Any) -> str:
    """Make a call inside a span of an application of its own; its trace."""
    with TracerProvider(shutdown_on_exit=False).get_tracer("application").start_as_current_span("page") as span:
        call()
    return f"{span.get_span_context().trace_id:032x}"


def of_trace(collector: Collector, trace: str, *wanted: str) -> dict[str, ReceivedSpan]:
    """Return the spans of a trace by name, once all wanted ones have arrived."""
    until(lambda: set(wanted) <= {span.name for span in collector.spans if span.trace == trace})
    return {span.name: span for span in collector.spans if span.trace == trace}


def ancestors(collector: Collector, span: ReceivedSpan) -> list[str]:
    """Names of the spans around one, the nearest first. Several of a trace may have one name, never one id."""
    by_id = {other.id: other for other in collector.spans}
    names = []
    while span.parent in by_id:
        span = by_id[span.parent]
        names.append(span.name)
    return names


def test_a_search_is_one_trace_from_the_client_to_the_batch(
    system: dict[str, ServerProcess], collector: Collector
) -> None:
    with SearchClient(system["orchestrator"].address, timeout_s=60) as client:
        trace = traced(lambda: client.search("books", "river bank", pipeline="reranked"))
    spans = of_trace(collector, trace, SEARCH, EMBED, RETRIEVE, RERANK, "batch")
    assert {spans[name].service.rpartition(".")[2] for name in (SEARCH, EMBED, RERANK)} == {
        "orchestrator",
        "embedding",
        "reranking",
    }
    assert ancestors(collector, spans[EMBED]) == ["embedding/Embed", "embed", SEARCH]
    assert ancestors(collector, spans[RETRIEVE])[-1] == SEARCH
    assert ancestors(collector, spans[RERANK])[-1] == SEARCH
    batches = [span for span in collector.spans if span.trace == trace and span.name == "batch"]
    assert {link for batch in batches for link in batch.links} <= {spans[EMBED].id, spans[RERANK].id}
    assert all(batch.links and batch.parent in batch.links for batch in batches)
    assert spans[SEARCH].attributes["sluice.degraded"] is False


def test_a_partial_answer_can_be_told_from_a_full_one(
    system: dict[str, ServerProcess], collector: Collector, tmp_path: Path
) -> None:
    places = [f"--{name}={system[name].address}" for name in ("embedding", "retrieval")]
    with (
        running(
            "services.orchestrator", *places, "--reranking=127.0.0.1:1", f"--otlp-endpoint={collector.address}"
        ) as alone,
        SearchClient(alone.address, timeout_s=60) as client,
    ):
        trace = traced(lambda: client.search("books", "river bank", pipeline="reranked"))
        spans = of_trace(collector, trace, SEARCH)
    assert spans[SEARCH].attributes["sluice.degraded"] is True
    assert not spans[SEARCH].failed
    stages = [span for span in spans.values() if span.attributes.get("sluice.status") == "skipped"]
    assert [span.attributes["sluice.reason"] for span in stages]


def test_a_callers_mistake_is_no_error_of_the_server_and_logs_name_the_trace(
    system: dict[str, ServerProcess], collector: Collector
) -> None:
    def mistaken() -> None:
        with SearchClient(system["orchestrator"].address, timeout_s=60) as client, pytest.raises(NotFound):
            client.search("nowhere", "river", pipeline="reranked")

    trace = traced(mistaken)
    spans = of_trace(collector, trace, SEARCH)
    assert not spans[SEARCH].failed
    assert spans[SEARCH].attributes["sluice.code"] == "NOT_FOUND"
    lines = [event for event in system["orchestrator"].events() if event.get("trace_id") == trace]
    assert lines
    assert all(line["request_id"] for line in lines)
    behind = [event for event in system["retrieval"].events() if event.get("trace_id") == trace]
    assert {line["request_id"] for line in behind} <= {line["request_id"] for line in lines}


def test_neither_logs_nor_traces_tell_what_is_searched_for(
    system: dict[str, ServerProcess], collector: Collector
) -> None:
    with SearchClient(system["orchestrator"].address, timeout_s=60) as client:
        trace = traced(lambda: client.search("books", "a swordfish in a river", pipeline="reranked"))
    of_trace(collector, trace, SEARCH, EMBED, RETRIEVE, RERANK)
    assert not [span for span in collector.spans if "swordfish" in repr(span)]
    assert not [line for process in system.values() for line in process.log if "swordfish" in line]


def test_a_call_without_a_trace_begins_one(system: dict[str, ServerProcess], collector: Collector) -> None:
    with EmbeddingClient(system["embedding"].address, timeout_s=60) as client:
        client.embed(["a lone text about nothing else"], "query")
    until(lambda: any(span.name == EMBED and not span.parent for span in collector.spans))


@pytest.mark.parametrize(("kind", "calls"), [("nothing listens", 100), ("nothing answers", 2200)])
def test_a_collector_that_is_away_slows_nobody(kind: str, calls: int, tiny_bi_encoder: Path) -> None:
    """Also with more spans than the queue holds. The calls are answered, and the process ends when it is told to."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if kind == "nothing answers":
            silent.listen(1)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            running("services.embedding", "--bundles", str(tiny_bi_encoder), "--otlp-endpoint", endpoint) as server,
            EmbeddingClient(server.address, timeout_s=60) as client,
        ):
            for _ in range(calls):
                client.models()
            assert server.terminate() == 0


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "sys.argv = ['x', '--otlp-endpoint', '127.0.0.1:1', '--listen', '127.0.0.1:0']\n"
        "from services.orchestrator.__main__ import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 1
    assert "sluice-search[tracing]" in json.loads(ran.stderr.splitlines()[-1])["event"]


def test_servers_without_a_collector_do_not_load_opentelemetry() -> None:
    code = (
        "import sys; import services.orchestrator.server, services.embedding.servicer, services.retrieval.servicer\n"
        "import sluice.client\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(StartRefused):
        start("services.orchestrator", "--otlp-endpoint", "http://me:secret@127.0.0.1:4317")
