"""Relevance feedback: the last reranker's scores move the query's vector, and what is found there is scored too.

Fact: the vectors of documents stay in retrieval; ids and weights travel. The formula is in `pipelines.Feedback`.
"""

from time import perf_counter

from sluice.errors import DeadlineExpired, SluiceError, Unavailable

from services.core.fusion import below, normalise, weighted_sum
from services.core.ranking import Ranking
from services.orchestrator.downstream.queries import MAX_DEPTH, FieldQuery, feedback_query
from services.orchestrator.pipelines.schema import Feedback, Rerank
from services.orchestrator.search.budget import has_time_for
from services.orchestrator.search.execution import Report, Run, Status
from services.orchestrator.search.rescore import score


async def feed_back(run: Run, stage: Feedback, before: Ranking) -> Ranking:
    """`before` with what a second retrieval adds, by the last reranker's scores; as it was when that fails."""
    started = perf_counter()
    reranker = run.plan.pipeline.rerank[-1]
    result, found, scored, error = before, Ranking(), Ranking(), None
    try:
        found, scored, error = await _second(run, stage, reranker)
    except SluiceError as caught:
        error = caught
    if error and not stage.forgives(error):
        raise error
    if scored:
        known = run.scored[reranker.name]
        merged = _ordered(reranker, found, Ranking.of([*known.items(), *scored.items()]))
        result = below(merged, before).top(reranker.depth)
        run.stages.append((stage.name, merged))
    status: Status = "ok" if error is None else "partial" if scored else "skipped"
    seconds = perf_counter() - started
    run.report(Report(stage.name, status, len(before), len(result), len(scored), seconds, error))
    return result


async def _second(run: Run, stage: Feedback, reranker: Rerank) -> tuple[Ranking, Ranking, SluiceError | None]:
    """What the moved query finds, what of it is new with its scores, and why some of it has none.

    Raises what kept the second retrieval away.
    """
    query, known = _query(run, stage, reranker), run.scored[reranker.name]
    deadline = run.stage_deadline(stage)
    if not has_time_for(min(reranker.slice, stage.depth), deadline.remaining_s(), run.pace_s):
        raise DeadlineExpired("there was no time for a second retrieval")
    candidates = await run.services.retrieval.retrieve(
        run.query.collection, [query], only=run.query.only, deadline=deadline
    )
    run.documents.update(candidates.documents)
    run.answered_by(candidates.collection_version)
    [found] = candidates.rankings
    new = found.only(set(found.ids) - set(known.ids)).top(stage.depth)
    scored, error = await score(run, reranker, new, deadline)
    return found, scored, error


def _query(run: Run, stage: Feedback, reranker: Rerank) -> FieldQuery:
    """The retriever's query of the first wording, moved. Raises Unavailable when there is nothing to move it by."""
    known = run.scored.get(reranker.name, Ranking())
    if stage.retriever not in run.asked or not known:
        raise Unavailable(f"nothing to move the query by: {stage.retriever} or {reranker.name} gave nothing")
    shares = normalise(known, "min_max")
    best = {id_: shares[id_] for id_ in known.ids[: stage.documents] if shares[id_] > 0}
    total = sum(best.values())
    weights = {id_: stage.weight * share / total for id_, share in best.items()}
    return feedback_query(run.asked[stage.retriever][0], weights, depth=min(MAX_DEPTH, stage.depth + len(known)))


def _ordered(reranker: Rerank, found: Ranking, scored: Ranking) -> Ranking:
    """All that the reranker scored, interpolated as it says, with the second retrieval as the stage before."""
    if reranker.interpolate is None:
        return scored
    mix = reranker.interpolate
    return weighted_sum([found.only(scored.ids), scored], [1.0 - mix.weight, mix.weight], mix.normalisation)
