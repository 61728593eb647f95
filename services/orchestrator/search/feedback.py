"""Relevance feedback: move the query toward the documents that the last reranker scored best, and retrieve again.

Fact: the vectors of documents stay in retrieval; only ids and weights are sent. `Feedback` has the formula.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from sluice.common.v1.document_pb2 import Document
from sluice.errors import DeadlineExpired, SluiceError, Unavailable

from services.core.fusion import append_unscored, normalize, weighted_sum
from services.core.ranking import Ranking
from services.orchestrator.downstream.queries import MAX_DEPTH, FieldQuery, feedback_query
from services.orchestrator.downstream.retrieval import Candidates
from services.orchestrator.downstream.truncation import Truncation
from services.orchestrator.pipelines.schema import Feedback, Rerank
from services.orchestrator.search.answer import Answer
from services.orchestrator.search.budget import has_time_for
from services.orchestrator.search.execution import (
    Retrieved,
    Scores,
    SearchContext,
    StageReport,
    StageResult,
    Status,
)
from services.orchestrator.search.rescore import score


@dataclass(frozen=True)
class _Second:
    """What the second retrieval found, with the reranker's scores of its new documents."""

    candidates: Candidates
    scores: Scores


async def apply_feedback(
    context: SearchContext, stage: Feedback, answer: Answer, reranked: Scores, retrieved: Retrieved
) -> StageResult:
    """Return the candidates with those that a second retrieval adds, in the order of the last reranker's scores.

    Returns the candidates unchanged if the second retrieval fails and may be skipped.
    Raises the error of a stage that must not be skipped.
    """
    started = perf_counter()
    second, error = None, None
    try:
        second = await _retrieve_again(context, stage, answer, reranked, retrieved)
        error = second.scores.error
    except SluiceError as caught:
        error = caught
    if error and not stage.forgives(error):
        raise error
    truncation = second.scores.truncation if second else Truncation()
    ranked = _merge(context.plan.pipeline.rerank[-1], reranked, second) if second and second.scores.ranking else None
    before, scored = answer.ranking, len(second.scores.ranking) if second else 0
    ranking = append_unscored(ranked, before).top(context.plan.pipeline.rerank[-1].depth) if ranked else before
    status: Status = "ok" if error is None else "partial" if scored else "skipped"
    duration = perf_counter() - started
    return StageResult(
        StageReport(stage.name, status, len(before), len(ranking), scored, duration, error, truncation),
        ranking,
        ranked,
        documents=second.candidates.documents if second else {},
        collection_version=second.candidates.collection_version if second else 0,
    )


async def _retrieve_again(
    context: SearchContext, stage: Feedback, answer: Answer, reranked: Scores, retrieved: Retrieved
) -> _Second:
    """Return what the moved query finds, with the reranker's scores. Raises the error of the second retrieval."""
    reranker = context.plan.pipeline.rerank[-1]
    query = _query(stage, reranker, reranked, retrieved.queries)
    deadline = context.deadline_of(stage)
    if not has_time_for(min(reranker.slice, stage.depth), deadline.remaining_s(), reranked.candidate_s):
        raise DeadlineExpired("there was no time for a second retrieval")
    candidates = await context.services.retrieval.retrieve(
        context.query.collection, [query], only=context.query.only, deadline=deadline
    )
    [found] = candidates.rankings
    new = found.only(set(found.ids) - set(reranked.ranking.ids)).top(stage.depth)
    documents: Mapping[str, Document] = {**answer.documents, **candidates.documents}
    return _Second(candidates, await score(context, reranker, new, documents, deadline, model=reranked.model))


def _query(
    stage: Feedback, reranker: Rerank, reranked: Scores, queries: Mapping[str, Sequence[FieldQuery]]
) -> FieldQuery:
    """Return the retriever's query of the first wording, moved. Raises Unavailable without documents to move it by."""
    if stage.retriever not in queries or not reranked.ranking:
        raise Unavailable(f"no feedback: stage {stage.retriever!r} or {reranker.name!r} returned no candidates")
    shares = normalize(reranked.ranking, "min_max")
    best = {id_: shares[id_] for id_ in reranked.ranking.ids[: stage.documents] if shares[id_] > 0}
    total = sum(best.values())
    weights = {id_: stage.weight * share / total for id_, share in best.items()}
    depth = min(MAX_DEPTH, stage.depth + len(reranked.ranking))
    return feedback_query(queries[stage.retriever][0], weights, depth=depth)


def _merge(reranker: Rerank, reranked: Scores, second: _Second) -> Ranking:
    """Return all documents that the reranker scored, interpolated with the ranking of the second retrieval."""
    scored = Ranking.of([*reranked.ranking.items(), *second.scores.ranking.items()])
    if reranker.interpolate is None:
        return scored
    mix, [found] = reranker.interpolate, second.candidates.rankings
    return weighted_sum([found.only(scored.ids), scored], [1.0 - mix.weight, mix.weight], mix.normalisation)
