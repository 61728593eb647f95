"""Runs one pipeline for one query: the only place that knows budgets and failure.

    embed, retrieve (side by side) ──▶ fuse ──▶ refine ──▶ rerank ──▶ rerank ──▶ feedback ──▶ the best top_k
    └────── retrieving.py ───────────────────┘  └───── narrowing.py ─────────┘  feedback.py

Rule: a stage that may be skipped never makes a search fail, and whatever it did not do is in its report.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

from sluice.common.v1.document_pb2 import Document
from sluice.errors import PreconditionFailed, SluiceError

from services.core.ranking import Ranking
from services.orchestrator.discovery import Known
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import Model
from services.orchestrator.pipelines.binding import Plan, bind
from services.orchestrator.pipelines.schema import Pipeline
from services.orchestrator.search.execution import WHOLE, Query, Report, Run
from services.orchestrator.search.feedback import feed_back
from services.orchestrator.search.rescore import narrow
from services.orchestrator.search.retrieve import Outdated, candidates
from services.rpc.deadline import Deadline
from services.rpc.observability import traces
from services.rpc.observability.metrics import SEARCHES

# So often a search is planned anew. Once is enough unless the collection changes again under it.
_RENEWALS: Final = 2
# Part of the time that the first search of all may wait to know which models there are.
_PATIENCE_SHARE = 0.2


@dataclass(frozen=True)
class Answer:
    """The result of a search and how it came about."""

    ranking: Ranking
    documents: Mapping[str, Document]
    stages: tuple[tuple[str, Ranking], ...]
    """What each stage ranked itself, in order, by its name."""
    reports: tuple[Report, ...]
    models: tuple[Model, ...]
    collection_version: int
    coverage: float
    """The least share of its work that the retrievers together, or a stage after them, did; 1 for a full answer."""
    is_chunked: bool
    """The documents are chunks."""

    @property
    def degraded(self) -> bool:
        """Whether a stage did not do all its work."""
        return any(report.status not in WHOLE for report in self.reports)


async def search(
    services: Services, known: Known, named: tuple[str, Pipeline], query: Query, deadline: Deadline
) -> Answer:
    """The answer of a pipeline within the deadline. Raises what a stage raised that may not be skipped."""
    for renewals in count():
        is_fresh = renewals > 0
        try:
            plan, is_fresh = await _plan(known, named, query.collection, deadline)
            answer = await _run(Run(services, plan, query, deadline, is_fresh=is_fresh))
            break
        except PreconditionFailed as error:
            # What was wrong with a plan of a moment ago may be wrong no longer.
            if is_fresh:
                raise
            reason: SluiceError = error
        except Outdated as outdated:
            reason = outdated.reason
        if renewals == _RENEWALS:
            raise reason
        # An alias may mean another collection now, with other fields: the query is planned and embedded for that.
        known.forget(query.collection)
        await known.refresh_embedders()
    SEARCHES.labels(plan.name, "degraded" if answer.degraded else "full").inc()
    traces.note({"sluice.pipeline": plan.name, "sluice.degraded": answer.degraded, "sluice.coverage": answer.coverage})
    return answer


async def _plan(known: Known, named: tuple[str, Pipeline], collection: str, deadline: Deadline) -> tuple[Plan, bool]:
    """The pipeline bound to the collection, and whether that was looked at just now."""
    name, pipeline = named
    models = await known.models(_PATIENCE_SHARE * deadline.remaining_s())
    found, is_fresh = await known.collection(collection, deadline)
    return bind(name, pipeline, found, models), is_fresh


async def _run(run: Run) -> Answer:
    pipeline = run.plan.pipeline
    ranking = await candidates(run)
    for stage in pipeline.narrowing:
        with traces.part(stage.name) as span:
            ranking = await narrow(run, stage, ranking)
            span.set(run.reports[-1].attributes())
    if pipeline.feedback:
        with traces.part(pipeline.feedback.name) as span:
            ranking = await feed_back(run, pipeline.feedback, ranking)
            span.set(run.reports[-1].attributes())
    return Answer(
        _cut(run, ranking).top(run.query.top_k),
        run.documents,
        tuple(run.stages),
        tuple(run.reports),
        tuple(run.models.values()),
        run.collection_version,
        min(run.shares),
        run.plan.is_chunked,
    )


def _cut(run: Run, ranking: Ranking) -> Ranking:
    """The ranking up to the pipeline's cut-off; whole when the last stage did not do all its work."""
    pipeline, last = run.plan.pipeline, run.reports[-1]
    is_whole = last.stage == pipeline.last_stage and last.status == "ok"
    if pipeline.cut_off is None or not is_whole:
        return ranking
    return ranking.cut(min_score=pipeline.cut_off.min_score, max_drop=pipeline.cut_off.max_drop)
