"""The fold of stage results into an answer: tables."""

import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.model_pb2 import ModelRef
from sluice.errors import NotFound, PreconditionFailed, SluiceError, Unavailable

from services.core.ranking import Ranking
from services.orchestrator.pipelines.loader import parse
from services.orchestrator.search.answer import Answer
from services.orchestrator.search.execution import StageReport, StageResult, Status, shows_stale_plan

EMPTY = Answer(is_chunked=False)
TEXT = """
default:
  description: One retriever, one reranker.
  retrieve: [{name: dense, kind: dense, depth: 9}]
  rerank: [{name: rerank, depth: 9}]
  cut_off: {min_score: 0.5}
"""


def ranking(**scores: float) -> Ranking:
    return Ranking.of(scores.items())


def result(stage: str, status: Status = "ok", ranked: Ranking | None = None, **others: object) -> StageResult:
    report = StageReport(stage, status, 0, 0, 0, 0.0)
    return StageResult(report, ranked or Ranking(), ranked, **others)  # type: ignore[arg-type]


def test_results_fold_into_an_answer_in_the_order_of_the_stages() -> None:
    first, second = ranking(a=0.9, b=0.1), ranking(b=2.0)
    a, b = Document(document_id="a"), Document(document_id="b")
    found = [
        result("embed", models=(ModelRef(name="mini"),)),
        result("dense", ranked=first, documents={"a": a, "b": b}, collection_version=7, coverage=0.5),
    ]
    answer = EMPTY.with_results(found).with_results([result("rerank", ranked=second, models=(ModelRef(name="late"),))])
    assert answer.ranking == second
    assert answer.rankings == (("dense", first), ("rerank", second))
    assert [report.stage for report in answer.reports] == ["embed", "dense", "rerank"]
    assert [model.name for model in answer.models] == ["mini", "late"]
    assert answer.documents == {"a": a, "b": b}
    assert (answer.collection_version, answer.coverage, answer.degraded) == (7, 0.5, False)
    assert Answer(is_chunked=False) == EMPTY


@pytest.mark.parametrize(
    ("versions", "oldest"), [([], 0), ([0], 0), ([0, 4], 4), ([4, 0], 4), ([5, 4, 0, 6], 4)], ids=str
)
def test_the_oldest_version_counts_and_zero_is_none(versions: list[int], oldest: int) -> None:
    answer = EMPTY
    for version in versions:
        answer = answer.with_results([result("dense", collection_version=version)])
    assert answer.collection_version == oldest


@pytest.mark.parametrize(("coverages", "least"), [([None], 1.0), ([0.5, None], 0.5), ([0.5, 0.9, 0.2], 0.2)], ids=str)
def test_the_smallest_coverage_counts(coverages: list[float | None], least: float) -> None:
    assert EMPTY.with_results([result("dense", coverage=one) for one in coverages]).coverage == least


@pytest.mark.parametrize(
    ("status", "degraded"), [("ok", False), ("left_out", False), ("partial", True), ("skipped", True)]
)
def test_an_answer_is_degraded_if_a_stage_did_not_do_all_its_work(status: Status, degraded: bool) -> None:
    assert EMPTY.with_results([result("dense"), result("rerank", status)]).degraded is degraded


@pytest.mark.parametrize(
    ("last", "status", "top_k", "ids"),
    [
        ("rerank", "ok", 9, ("a", "b")),
        ("rerank", "ok", 1, ("a",)),
        ("rerank", "partial", 9, ("a", "b", "c")),
        ("dense", "ok", 9, ("a", "b", "c")),
    ],
)
def test_the_cut_off_applies_only_if_the_last_stage_did_all_its_work(
    last: str, status: Status, top_k: int, ids: tuple[str, ...]
) -> None:
    answer = EMPTY.with_results([result(last, status, ranking(a=0.9, b=0.6, c=0.1))])
    assert answer.cut(parse(TEXT, source="p")["default"], top_k).ranking.ids == ids


@pytest.mark.parametrize(
    ("error", "stale"),
    [(PreconditionFailed("other fields"), True), (NotFound("no collection"), False), (Unavailable("away"), False)],
)
def test_errors_that_show_a_stale_plan(error: SluiceError, stale: bool) -> None:
    assert shows_stale_plan(error) is stale
