"""Stages that order candidates anew: refinement by stored token vectors, and rerankers."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

from sluice.common.v1.document_pb2 import Document
from sluice.errors import DeadlineExpired, PreconditionFailed, SluiceError, Unavailable

from services.core.fusion import append_unscored, interpolate
from services.core.ranking import Ranking
from services.orchestrator.documents import text_of
from services.orchestrator.downstream.queries import cascade_queries
from services.orchestrator.downstream.reranking import TextScores
from services.orchestrator.downstream.schemas import Windows
from services.orchestrator.downstream.truncation import Truncation
from services.orchestrator.downstream.vectors import Model
from services.orchestrator.pipelines.schema import Refine, Rerank
from services.orchestrator.search.budget import has_time_for
from services.orchestrator.search.execution import (
    Retrieved,
    Scores,
    SearchContext,
    StageReport,
    StageResult,
    StalePlan,
    Status,
    shows_stale_plan,
)
from services.rpc.deadline import Deadline

# Reranker input for a document with neither title nor text. Only clients of retrieval itself can store one.
_NO_TEXT: Final = "-"


async def refine(context: SearchContext, stage: Refine, before: Ranking, retrieved: Retrieved) -> StageResult:
    """Return the best candidates in the order of their stored token vectors, the others below them.

    Raises StalePlan, and the error of a stage that must not be skipped.
    """
    started = perf_counter()
    given = before.top(stage.depth)
    if context.plan.bindings[stage.name].is_left_out:
        return StageResult(StageReport(stage.name, "left_out", len(before), len(given), 0, 0.0), given)
    scores = await _compare_tokens(context, stage, given, retrieved)
    return _rescored(stage, before, given, scores, started)


async def rerank(
    context: SearchContext, stage: Rerank, before: Ranking, documents: Mapping[str, Document]
) -> StageResult:
    """Return the best candidates in the order of the reranker's scores, those without a score below them.

    Raises the error of a stage that must not be skipped.
    """
    started = perf_counter()
    given = before.top(stage.depth)
    scores = await score(context, stage, given, documents, context.deadline_of(stage))
    return _rescored(stage, before, given, scores, started)


async def score(
    context: SearchContext,
    stage: Rerank,
    given: Ranking,
    documents: Mapping[str, Document],
    deadline: Deadline,
    *,
    model: Model | None = None,
) -> Scores:
    """Return the reranker's scores, slice by slice until all candidates have one, time runs out or a call fails.

    model  the model that must answer; None accepts any, and then the same one for every slice
    """
    each_s, scores, dropped, dropped_of_query = 0.0, list[tuple[str, float]](), list[int](), 0
    error: SluiceError | None = None
    while ids := given.ids[len(scores) : len(scores) + stage.slice]:
        if not has_time_for(len(ids), deadline.remaining_s(), each_s):
            error = DeadlineExpired(f"there was time to score {len(scores)} of {len(given)} candidates")
            break
        started = perf_counter()
        try:
            found = await _score_slice(context, stage, [documents[id_] for id_ in ids], deadline)
            model = _same_model(model, found.model)
        except SluiceError as caught:
            error = caught
            break
        scores += zip(ids, found.scores, strict=True)
        dropped += found.dropped
        dropped_of_query = found.dropped_of_query
        each_s = (perf_counter() - started) / len(ids)
    return Scores(Ranking.of(scores), model, each_s, Truncation.of([*dropped, dropped_of_query]), error)


async def _score_slice(
    context: SearchContext, stage: Rerank, documents: Sequence[Document], deadline: Deadline
) -> TextScores:
    """Return the reranker's scores of some candidates. Raises the errors of the reranking service."""
    return await context.services.reranking.score(
        context.query.text,
        [text_of(document) or _NO_TEXT for document in documents],
        model=stage.model,
        windows=Windows(overlap_token_count=stage.windows.overlap) if stage.windows else None,
        deadline=deadline,
        patient=stage.on_error == "fail",
    )


def _same_model(expected: Model | None, given: Model) -> Model:
    """Return the model of all slices. Raises Unavailable if another model answered this one."""
    if expected is not None and expected.digest != given.digest:
        raise Unavailable("reranking: the model changed during the search; scores of two models are not comparable")
    return expected or given


async def _compare_tokens(context: SearchContext, stage: Refine, given: Ranking, retrieved: Retrieved) -> Scores:
    """Return the MaxSim scores of the candidates, computed by retrieval from their stored token vectors."""
    binding = context.plan.bindings[stage.name]
    vectors = binding.error or retrieved.vectors[binding.model]
    if isinstance(vectors, SluiceError):
        return Scores(error=vectors)
    if not given:
        return Scores()
    try:
        binding.check(vectors, "multi_vector")
    except PreconditionFailed as error:
        raise StalePlan(error) from error
    queries = cascade_queries(vectors, list(retrieved.queries.values()), field=binding.field)
    deadline = context.deadline_of(stage)
    try:
        found = await context.services.retrieval.retrieve(
            context.query.collection, queries, only=context.query.only, deadline=deadline, ids_only=True
        )
    except SluiceError as error:
        if shows_stale_plan(error):
            raise StalePlan(error) from error
        return Scores(error=error)
    scores = {id_: score for ranking in found.rankings for id_, score in ranking.items()}
    scored = Ranking.of((id_, scores[id_]) for id_ in given.ids if id_ in scores)
    return Scores(scored, error=_missing_scores(len(given), len(scored), found.coverage))


def _missing_scores(given: int, scored: int, coverage: float) -> SluiceError | None:
    """Return why some candidates have no score; None if all have one."""
    if scored == given:
        return None
    if coverage < 1:
        return DeadlineExpired(f"retrieval: there was time to score {scored} of {given} candidates")
    return Unavailable(f"{given - scored} of {given} candidates were deleted or replaced during the search")


def _rescored(stage: Refine | Rerank, before: Ranking, given: Ranking, scores: Scores, started: float) -> StageResult:
    """Return the result of a stage from its scores. Raises the error of a stage that must not be skipped."""
    scored, error, mix = scores.ranking, scores.error, stage.interpolate
    if error and not stage.forgives(error):
        raise error
    if mix:
        scored = interpolate(given, scored, weight=mix.weight, normalization=mix.normalisation)
    status: Status = "ok" if error is None else "partial" if scored else "skipped"
    duration = perf_counter() - started
    return StageResult(
        StageReport(stage.name, status, len(before), len(given), len(scored), duration, error, scores.truncation),
        append_unscored(scored, given),
        ranked=scored if scored else None,
        models=(scores.model,) if scores.model else (),
        coverage=len(scored) / len(given) if given else 1.0,
        scores=scores,
    )
