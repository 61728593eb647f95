"""Searches while a service fails, hangs or returns invalid responses."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.errors import BackendFailed, DeadlineExpired, SluiceError, Unavailable
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.fake_services import DIMENSIONS, ExactRetrieval, Stored, System, orchestrator, retrieval_server
from tests.support.faults import SEARCH, always, failure, hang, indexed_system, run, search_with_time
from tests.support.waiting import longer_and_longer

OK, SKIPPED, PARTIAL = pb.StageReport.STATUS_OK, pb.StageReport.STATUS_SKIPPED, pb.StageReport.STATUS_PARTIAL


STRICT = """
default:
  description: Nothing may be missing.
  retrieve: [{name: dense, kind: dense, depth: 50}]
  rerank: [{name: rerank, depth: 50, on_error: fail}]
"""


TWO = """
default:
  description: One of two retrievers may be missing.
  retrieve:
    - {name: left, kind: dense, depth: 10, model: hashing}
    - {name: right, kind: dense, depth: 10, model: absent, on_error: skip}
  fuse: {method: weighted_sum, normalisation: min_max, weights: {left: 1, right: 1}, depth: 10}
"""


async def ids_of(running: System, pipeline: str) -> list[str]:
    request = pb.SearchRequest(collection="books", query=SEARCH.query, top_k=5, pipeline=pipeline)
    return [result.document.document_id for result in (await running.search.Search(request)).results]


def sample(name: str, **labels: str) -> float:
    """Return the value of a metric; 0 if nothing was counted."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def report(answer: pb.SearchResponse, stage: str) -> pb.StageReport:
    [found] = [report for report in answer.stages if report.stage == stage]
    return found


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("loading"), "NOT_READY"),
        (Unavailable("busy", reason=ErrorReason.ERROR_REASON_OVERLOADED), "OVERLOADED"),
        (BackendFailed("broken"), "BACKEND_FAILED"),
        (RuntimeError("boom"), "DEFECT"),
    ],
)
async def test_a_failing_reranker_keeps_the_order_of_retrieval(error: Any, reason: str) -> None:
    async with indexed_system() as running:
        expected = await ids_of(running, "fast")
        running.reranker.before = always(error)
        answer = await running.search.Search(SEARCH)
        assert [result.document.document_id for result in answer.results] == expected
        assert answer.degraded
        assert answer.coverage == 0.0
        assert report(answer, "rerank").status == SKIPPED
        assert report(answer, "rerank").reason.startswith(f"{reason}: reranking: ")
        assert [standing.stage for standing in answer.results[0].standings] == ["dense"]


async def test_a_failing_reranker_fails_the_search_where_the_pipeline_says_so(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(STRICT)

    async with indexed_system(tmp_path / "p.yaml") as running:
        running.reranker.before = always(BackendFailed("broken"))
        assert isinstance(await failure(running.search.Search(SEARCH)), BackendFailed)


async def test_a_hung_reranker_costs_its_share_of_the_deadline_and_no_more() -> None:
    async with indexed_system() as running:
        expected = await ids_of(running, "fast")
        running.reranker.before = hang
        answer = await search_with_time(running.search, SEARCH, lambda _: running.reranker.count("Rerank") > 0)
        assert [result.document.document_id for result in answer.results] == expected
        assert report(answer, "rerank").status == SKIPPED
        assert report(answer, "rerank").reason.startswith("DEADLINE_EXPIRED")
        await running.reranker.cancelled.wait()


@pytest.mark.parametrize("on_timeout", ["fail", "skip"])
async def test_a_late_reranker_is_skipped_where_only_failures_fail_the_search(tmp_path: Path, on_timeout: str) -> None:
    said = {"fail": "on_timeout: fail", "skip": "on_timeout: skip, share: 0.3"}[on_timeout]
    (tmp_path / "p.yaml").write_text(STRICT.replace("on_error: fail", f"on_error: fail, {said}"))

    async with indexed_system(tmp_path / "p.yaml") as running:
        running.reranker.before = hang
        if on_timeout == "fail":
            assert isinstance(await failure(running.search.Search(SEARCH, timeout=1.0)), DeadlineExpired)
        else:
            answer = await search_with_time(running.search, SEARCH, lambda answer: bool(answer.results))
            assert report(answer, "rerank").status == SKIPPED
        running.reranker.before = always(BackendFailed("broken"))
        assert isinstance(await failure(running.search.Search(SEARCH)), BackendFailed)


def test_a_reranker_that_hangs_midway_gives_what_it_scored_first() -> None:
    async def check(running: System) -> None:
        async def hang_later(method: str) -> None:
            if running.reranker.count("Rerank") > 1:
                await hang(method)

        running.reranker.before = hang_later
        request = pb.SearchRequest(collection="books", query="word3", top_k=40)

        def is_partial(answer: pb.SearchResponse) -> bool:
            # The next search begins with a first call again.
            running.reranker.calls.clear()
            return report(answer, "rerank").status == PARTIAL

        answer = await search_with_time(running.search, request, is_partial)
        assert report(answer, "rerank").scored_count == 16
        assert answer.coverage == pytest.approx(16 / 40)
        assert answer.degraded
        scored = [any(s.stage == "rerank" for s in result.standings) for result in answer.results]
        assert scored == [True] * 16 + [False] * 24
        scores = [result.score for result in answer.results]
        assert scores == sorted(scores, reverse=True)
        dense = [result.standings[0].rank for result in answer.results[16:]]
        assert dense == sorted(dense)

    run(check)


def nan_scores(response: reranking_pb.RerankResponse) -> reranking_pb.RerankResponse:
    response.results[0].score = float("nan")
    return response


def too_few_scores(response: reranking_pb.RerankResponse) -> reranking_pb.RerankResponse:
    del response.results[0]
    return response


def same_index_twice(response: reranking_pb.RerankResponse) -> reranking_pb.RerankResponse:
    response.results[0].index = response.results[1].index
    return response


@pytest.mark.parametrize("spoil", [nan_scores, too_few_scores, same_index_twice])
async def test_an_invalid_response_of_the_reranker_skips_it(spoil: Callable[[Any], Any]) -> None:
    async with indexed_system() as running:
        expected = await ids_of(running, "fast")
        running.reranker.alter = spoil
        answer = await running.search.Search(SEARCH)
        assert [result.document.document_id for result in answer.results] == expected
        assert report(answer, "rerank").reason.startswith("BACKEND_FAILED: reranking: expected ")


def nan_candidate(response: retrieval_pb.RetrieveResponse) -> retrieval_pb.RetrieveResponse:
    response.rankings[0].scores[0] = float("nan")
    return response


def foreign_candidate(response: retrieval_pb.RetrieveResponse) -> retrieval_pb.RetrieveResponse:
    response.rankings[0].document_ids[0] = "nowhere"
    return response


def repeated_candidate(response: retrieval_pb.RetrieveResponse) -> retrieval_pb.RetrieveResponse:
    response.rankings[0].document_ids[0] = response.rankings[0].document_ids[1]
    return response


def no_ranking(response: retrieval_pb.RetrieveResponse) -> retrieval_pb.RetrieveResponse:
    del response.rankings[:]
    return response


def nonsense_coverage(response: retrieval_pb.RetrieveResponse) -> retrieval_pb.RetrieveResponse:
    response.rankings[0].coverage = float("nan")
    return response


@pytest.mark.parametrize("spoil", [nan_candidate, foreign_candidate, repeated_candidate, no_ranking, nonsense_coverage])
async def test_an_invalid_response_of_retrieval_is_an_internal_error(spoil: Callable[[Any], Any]) -> None:
    async with indexed_system() as running:
        running.retrieval.alter = spoil
        error = await failure(running.search.Search(SEARCH))
        assert isinstance(error, BackendFailed)
        assert error.message.startswith("retrieval: ")


def half_looked_at(response: retrieval_pb.RetrieveResponse) -> retrieval_pb.RetrieveResponse:
    response.rankings[0].coverage = 0.5
    return response


async def test_a_retrieval_that_looked_at_half_of_the_documents_degrades_the_answer() -> None:
    async with indexed_system() as running:
        running.retrieval.alter = half_looked_at
        cut = sample("sluice_stage_degraded_total", pipeline="fast", stage="dense", reason="DEADLINE_EXPIRED")
        degraded = sample("sluice_searches_total", pipeline="fast", outcome="degraded")
        request = pb.SearchRequest(collection="books", query=SEARCH.query, top_k=5, pipeline="fast")
        answer = await running.search.Search(request)
        assert len(answer.results) == 5
        assert (answer.degraded, answer.coverage) == (True, 0.5)
        assert report(answer, "dense").status == PARTIAL
        assert "time to compare 50% of the documents" in report(answer, "dense").reason
        now = {"pipeline": "fast", "stage": "dense", "reason": "DEADLINE_EXPIRED"}
        assert sample("sluice_stage_degraded_total", **now) == cut + 1
        assert sample("sluice_searches_total", pipeline="fast", outcome="degraded") == degraded + 1


async def test_a_retriever_that_must_be_in_time_fails_the_search_when_it_is_not(tmp_path: Path) -> None:
    text = "default:\n  description: Whole.\n  retrieve: [{name: dense, kind: dense, depth: 9, on_timeout: fail}]\n"
    (tmp_path / "p.yaml").write_text(text)

    async with indexed_system(tmp_path / "p.yaml") as running:
        running.retrieval.alter = half_looked_at
        assert isinstance(await failure(running.search.Search(SEARCH)), DeadlineExpired)


async def test_an_embedding_service_that_answers_nothing_is_an_internal_error() -> None:
    async with indexed_system() as running:
        running.embedder.alter = lambda response: embedding_pb.EmbedResponse(model=response.model)
        error = await failure(running.search.Search(SEARCH))
        assert isinstance(error, BackendFailed)
        assert error.message.startswith("embedding: ")


async def test_one_of_two_retrievers_down_is_marked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(TWO)

    async with indexed_system(tmp_path / "p.yaml") as running:
        answer = await running.search.Search(SEARCH)
        assert answer.degraded
        assert [standing.stage for standing in answer.results[0].standings] == ["left", "fuse"]
        statuses = {report.stage: report.status for report in answer.stages}
        assert statuses == {"embed": OK, "left": OK, "right": SKIPPED, "fuse": OK}
        assert answer.coverage == 0.5
        assert "the pipeline names 'absent', which is not served" in report(answer, "right").reason


async def test_a_search_with_no_embedding_service_is_unavailable_and_names_it() -> None:
    retrieval = ExactRetrieval()
    schema = retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=DIMENSIONS)])
    retrieval.collections["books"] = Stored(schema)
    addresses: dict[str, Any] = {"embedding": "127.0.0.1:1", "reranking": "127.0.0.1:1"}
    async with (
        retrieval_server(retrieval) as address,
        orchestrator(listen="127.0.0.1:0", drain_grace_s=0.0, retrieval=address, **addresses) as (search, _),
    ):
        error: SluiceError = DeadlineExpired("")
        for deadline_s in longer_and_longer(0.5):
            error = await failure(search.Search(SEARCH, timeout=deadline_s))
            if not isinstance(error, DeadlineExpired):
                break
        assert isinstance(error, Unavailable)
        assert error.message.startswith("embedding: ")


async def test_a_search_waits_for_a_retrieval_service_that_restarts() -> None:
    async with indexed_system() as running:

        async def fail_at_first(method: str) -> None:
            if len(running.retrieval.calls) < 4 + indexed:
                raise Unavailable("restarting")

        indexed = len(running.retrieval.calls)
        running.retrieval.before = fail_at_first
        answer = await running.search.Search(SEARCH, timeout=20.0)
        assert not answer.degraded
        assert len(running.retrieval.calls) == indexed + 4 + 1  # once to see the collection, then to search it


async def test_an_unavailable_reranker_is_not_called_repeatedly() -> None:
    async with indexed_system() as running:
        running.reranker.before = always(BackendFailed("broken"))
        for _ in range(5):
            await running.search.Search(SEARCH)
        assert running.reranker.count("Rerank") == 5
        answers = await asyncio.gather(*(running.search.Search(SEARCH) for _ in range(8)))
        # On a machine so busy that a second has passed, one of them is the breaker's probe.
        not_called = ["not called" in report(answer, "rerank").reason for answer in answers]
        assert sum(not_called) == 8 - (running.reranker.count("Rerank") - 5) > 0


async def test_retries_of_rejected_searches_are_limited() -> None:
    """The budget holds 10 retries and gains one for ten answered calls."""

    async with indexed_system() as running:
        overloaded = Unavailable("busy", reason=ErrorReason.ERROR_REASON_OVERLOADED)
        running.embedder.before = always(overloaded)
        before = running.embedder.count("Embed")
        calls = [failure(running.search.Search(SEARCH, timeout=20.0)) for _ in range(20)]
        errors = await asyncio.gather(*calls)
        assert {error.reason_name for error in errors} == {"OVERLOADED"}
        assert running.embedder.count("Embed") - before <= 20 + 10


async def test_a_hung_retrieval_ends_the_search_at_its_deadline() -> None:
    async with indexed_system() as running:
        running.retrieval.before = hang
        before = len(running.retrieval.calls)
        for deadline_s in longer_and_longer(0.5):
            error = await failure(running.search.Search(SEARCH, timeout=deadline_s))
            assert isinstance(error, DeadlineExpired)
            if len(running.retrieval.calls) > before:
                break
        await running.retrieval.cancelled.wait()


@pytest.mark.parametrize("service", ["embedder", "retrieval", "reranker"])
async def test_a_caller_that_disconnects_stops_the_work_of_the_services(service: str) -> None:
    async with indexed_system() as running:
        troubled, reached = getattr(running, service), asyncio.Event()

        async def hang_here(method: str) -> None:
            reached.set()
            await hang(method)

        troubled.before = hang_here
        call = running.search.Search(SEARCH)
        task = asyncio.ensure_future(call)
        await reached.wait()
        call.cancel()
        await troubled.cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
