"""The system as users run it: four processes, the real model, the documentation of Python."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sluice.client import Document, EmbeddingClient, SearchAnswer, SearchClient
from sluice.errors import DeadlineExpired, Unavailable

from services.local.pydocs import corpus
from tests.support.system import System, running_system
from tests.support.waiting import until

MODULES = {"csv", "json", "timeit", "shutil", "bisect", "textwrap", "zipfile", "random", "heapq", "queue"}
# Questions that the demo does not ask.
QUESTIONS = {
    "write rows of a table to a file separated by commas": {"csv"},
    "copy a whole directory tree": {"shutil"},
    "how long does a snippet take to run": {"timeit"},
    "wrap a paragraph so that lines are not too wide": {"textwrap"},
    "read the members of an archive": {"zipfile"},
    "pick one element of a list by chance": {"random"},
}


def documents() -> list[Document]:
    """Passages of some modules: about 200."""
    return [document for document in corpus() if document.metadata.get("module") in MODULES]


@pytest.fixture(scope="module")
def system(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("system"), minilm_bundle) as system:
        yield system


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[SearchClient]:
    with SearchClient(system.address) as client:
        outcomes = {ack.outcome for ack in client.index("python", documents(), create=True, filterable_fields=FIELDS)}
        assert outcomes == {"indexed"}
        yield client


FIELDS = {"module": "string", "kind": "string"}


@pytest.mark.slow
@pytest.mark.parametrize(("question", "modules"), QUESTIONS.items())
def test_the_first_result_is_of_the_right_module(client: SearchClient, question: str, modules: set[str]) -> None:
    answer = client.search("python", question, top_k=5, timeout_s=30)
    assert not answer.degraded
    assert answer.results[0].document.metadata["module"] in modules
    assert [stage.status for stage in answer.stages] == ["ok"] * len(answer.stages)
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_indexing_again_does_no_model_work(client: SearchClient) -> None:
    assert {ack.outcome for ack in client.index("python", documents())} == {"unchanged"}


@pytest.mark.slow
def test_a_filter_holds(client: SearchClient) -> None:
    answer = client.search("python", "copy a whole directory tree", filter="module == 'zipfile'", timeout_s=30)
    assert {result.document.metadata["module"] for result in answer.results} == {"zipfile"}


@pytest.mark.slow
def test_served_vectors_equal_those_of_sentence_transformers(system: System) -> None:
    from sentence_transformers import SentenceTransformer

    from export.demo import demo_checkpoint

    texts = [document.text for document in documents()[:60:3]] + list(QUESTIONS)
    expected = SentenceTransformer(str(demo_checkpoint()), device="cpu").encode(texts, normalize_embeddings=True)
    with EmbeddingClient(system.processes["embedding"].address) as client:
        served = np.asarray(client.embed(texts, "document", timeout_s=60).dense)
    assert (served * expected).sum(axis=1).min() >= 0.9999


@pytest.mark.slow
def test_without_the_reranker_the_order_of_retrieval_is_returned_and_marked(
    client: SearchClient, system: System
) -> None:
    question = next(iter(QUESTIONS))
    dense = client.search("python", question, pipeline="fast", top_k=5, timeout_s=30)
    system.kill("reranking")
    answer = client.search("python", question, top_k=5, timeout_s=30)
    assert answer.degraded
    assert [result.document.document_id for result in answer.results] == [
        result.document.document_id for result in dense.results
    ]
    (rerank,) = [stage for stage in answer.stages if stage.status != "ok"]
    assert rerank.name == "rerank"
    assert rerank.reason
    system.restart("reranking")
    until(lambda: not client.search("python", question, timeout_s=30).degraded)


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_kill_of_retrieval(client: SearchClient, system: System) -> None:
    before = {
        result.document.document_id for result in client.search("python", "copy a file", top_k=20, timeout_s=30).results
    }
    system.kill("retrieval")
    system.restart("retrieval")
    until(lambda: answers(client))
    after = {
        result.document.document_id for result in client.search("python", "copy a file", top_k=20, timeout_s=30).results
    }
    assert after == before
    assert {ack.outcome for ack in client.index("python", documents())} == {"unchanged"}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["embedding", "retrieval", "orchestrator"])
def test_an_index_stream_survives_the_kill_of_a_service(system: System, client: SearchClient, victim: str) -> None:
    """The client sends again what was not acknowledged; in the end every document is there, once."""
    source = documents()[:120]
    restarting: threading.Thread | None = None
    acks: dict[str, str] = {}
    for ack in client.index(f"again-{victim}", source, create=True, max_unacknowledged=64):
        acks[ack.document_id] = ack.outcome
        if restarting is None:
            system.kill(victim)
            restarting = threading.Thread(target=system.restart, args=[victim])
            restarting.start()
    assert restarting is not None
    restarting.join()
    assert set(acks) == {document.document_id for document in source}
    assert set(acks.values()) <= {"indexed", "unchanged"}
    until(lambda: answers(client))
    assert {ack.outcome for ack in client.index(f"again-{victim}", source)} == {"unchanged"}


def ids(answer: SearchAnswer) -> list[str]:
    return [result.document.document_id for result in answer.results]


def answers(client: SearchClient) -> bool:
    """Whether a search has a full answer: a breaker may still be open after a restart."""
    try:
        return not client.search("python", "copy a file", timeout_s=30).degraded
    except (DeadlineExpired, Unavailable):
        return False
