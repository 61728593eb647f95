"""A search: plan a pipeline for a collection, run its stages in order, and fold their results into an answer.

    embed, retrieve (side by side) ──▶ fuse ──▶ refine ──▶ rerank ──▶ rerank ──▶ feedback ──▶ the best top_k
    └────── retrieve.py ─────────────────────┘  └────── rescore.py ─────────┘  feedback.py

Rule: a stage that may be skipped never makes a search fail. Its report says what it did not do.
"""

from collections.abc import Awaitable
from itertools import count
from typing import Final

from sluice.errors import PreconditionFailed, SluiceError

from services.orchestrator.discovery import ServiceDirectory
from services.orchestrator.downstream.services import Services
from services.orchestrator.metrics import (
    SEARCHES,
    STAGE,
    STAGE_CANDIDATES,
    STAGE_DEGRADED,
    STAGE_DROPPED_TOKENS,
    STAGE_TRUNCATED,
)
from services.orchestrator.pipelines.binding import Plan, bind
from services.orchestrator.pipelines.schema import EMBED, Pipeline
from services.orchestrator.search.answer import Answer
from services.orchestrator.search.execution import (
    Query,
    Scores,
    SearchContext,
    StageReport,
    StageResult,
    StalePlan,
)
from services.orchestrator.search.feedback import apply_feedback
from services.orchestrator.search.rescore import refine, rerank
from services.orchestrator.search.retrieve import retrieve
from services.rpc.deadline import Deadline
from services.rpc.observability import traces

# A search is planned again at most this many times. Once is enough unless the collection changes again meanwhile.
_MAX_REPLANS: Final = 2
# Share of its time that a search may wait for the first list of models after a start.
_MODELS_SHARE: Final = 0.2


async def search(
    services: Services, directory: ServiceDirectory, named: tuple[str, Pipeline], query: Query, deadline: Deadline
) -> Answer:
    """Return the answer of a pipeline. Raises the error of a stage that must not be skipped."""
    for replans in count():
        is_fresh = replans > 0
        try:
            plan, is_fresh = await _plan(directory, named, query.collection, deadline)
            answer = await _run(SearchContext(services, plan, query, deadline, is_fresh=is_fresh))
            break
        except PreconditionFailed as error:
            # An older plan may fail because the collection changed since.
            if is_fresh:
                raise
            reason: SluiceError = error
        except StalePlan as stale:
            reason = stale.reason
        if replans == _MAX_REPLANS:
            raise reason
        # An alias may name another collection now, with other fields, so the query is planned and embedded again.
        directory.forget(query.collection)
        await directory.refresh_embedders()
    SEARCHES.labels(plan.name, "degraded" if answer.degraded else "full").inc()
    traces.note({"sluice.pipeline": plan.name, "sluice.degraded": answer.degraded, "sluice.coverage": answer.coverage})
    return answer


async def _plan(
    directory: ServiceDirectory, named: tuple[str, Pipeline], collection: str, deadline: Deadline
) -> tuple[Plan, bool]:
    """Return the pipeline bound to the collection, and whether the collection was looked up just now."""
    name, pipeline = named
    models = await directory.models(_MODELS_SHARE * deadline.remaining_s())
    found, is_fresh = await directory.collection(collection, deadline)
    return bind(name, pipeline, found, models), is_fresh


async def _run(context: SearchContext) -> Answer:
    """Return the folded results of the stages, run in their order."""
    pipeline, query = context.plan.pipeline, context.query
    retrieved = await retrieve(context)
    answer = _add(context, Answer(context.plan.is_chunked), *retrieved.results)
    if not retrieved.queries:
        raise next(one.report.error for one in retrieved.results if one.report.error)
    if pipeline.refine:
        refinement = refine(context, pipeline.refine, answer.ranking, retrieved)
        answer = _add(context, answer, await _traced(pipeline.refine.name, refinement))
    scores = Scores()
    for stage in pipeline.rerank:
        result = await _traced(stage.name, rerank(context, stage, answer.ranking, answer.documents))
        answer, scores = _add(context, answer, result), result.scores or scores
    if pipeline.feedback:
        feedback = apply_feedback(context, pipeline.feedback, answer, scores, retrieved)
        answer = _add(context, answer, await _traced(pipeline.feedback.name, feedback))
    return answer.cut(pipeline, query.top_k)


async def _traced(name: str, stage: Awaitable[StageResult]) -> StageResult:
    """Return the result of a stage that runs as a span of the trace."""
    with traces.part(name) as span:
        result = await stage
        span.set(result.report.attributes())
    return result


def _add(context: SearchContext, answer: Answer, *results: StageResult) -> Answer:
    """Count what stages did, and return the answer with their results."""
    for result in results:
        _count(context.plan.name, result.report)
    return answer.with_results(results)


def _count(pipeline: str, report: StageReport) -> None:
    """Record one stage in the metrics."""
    STAGE.labels(pipeline, report.stage).observe(report.duration_s)
    if report.stage != EMBED:
        STAGE_CANDIDATES.labels(pipeline, report.stage).observe(report.kept)
    STAGE_TRUNCATED.labels(pipeline, report.stage).inc(report.truncation.texts)
    STAGE_DROPPED_TOKENS.labels(pipeline, report.stage).inc(report.truncation.tokens)
    if report.error is not None:
        STAGE_DEGRADED.labels(pipeline, report.stage, report.error.reason_name).inc()
