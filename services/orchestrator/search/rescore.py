"""The stages that order candidates anew: refinement by stored token vectors, rerankers, and relevance feedback."""

from time import perf_counter
from typing import Final

from sluice.errors import DeadlineExpired, PreconditionFailed, SluiceError, Unavailable

from services.core.fusion import below, interpolate
from services.core.ranking import Ranking
from services.orchestrator.documents import text_of
from services.orchestrator.downstream.queries import cascade_queries
from services.orchestrator.pipelines.schema import Refine, Rerank
from services.orchestrator.search.budget import has_time_for
from services.orchestrator.search.execution import Report, Run, Status
from services.orchestrator.search.retrieve import Outdated, check_fit, is_misfit
from services.rpc.deadline import Deadline

# What a reranker reads of a document with neither title nor text, which only retrieval's own clients can store.
_NO_TEXT: Final = "-"


async def narrow(run: Run, stage: Refine | Rerank, before: Ranking) -> Ranking:
    """The best of `before`, ordered anew as far as time allowed; the rest follows in the order it had."""
    started = perf_counter()
    given = before.top(stage.depth)
    if isinstance(stage, Refine) and run.plan.bound[stage.name].is_left_out:
        run.report(Report(stage.name, "left_out", len(before), len(given), 0, 0.0))
        return given
    scored, error = await (score(run, stage, given) if isinstance(stage, Rerank) else _refine(run, stage, given))
    if error and not stage.forgives(error):
        raise error
    if isinstance(stage, Rerank):
        run.scored[stage.name] = scored
    if stage.interpolate:
        mix = stage.interpolate
        scored = interpolate(given, scored, weight=mix.weight, normalisation=mix.normalisation)
    status: Status = "ok" if error is None else "partial" if scored else "skipped"
    run.report(Report(stage.name, status, len(before), len(given), len(scored), perf_counter() - started, error))
    run.shares.append(len(scored) / len(given) if given else 1.0)
    if scored:
        run.stages.append((stage.name, scored))
    return below(scored, given)


async def score(
    run: Run, stage: Rerank, given: Ranking, deadline: Deadline | None = None
) -> tuple[Ranking, SluiceError | None]:
    """The candidates scored slice by slice until all are, time ends or a call fails; and why it ended early."""
    deadline = deadline or run.stage_deadline(stage)
    each_s, scores = 0.0, list[tuple[str, float]]()
    while ids := given.ids[len(scores) : len(scores) + stage.slice]:
        if not has_time_for(len(ids), deadline.remaining_s(), each_s):
            message = f"there was time to score {len(scores)} of {len(given)} candidates"
            return Ranking.of(scores), DeadlineExpired(message)
        started = perf_counter()
        try:
            scores += await _score_slice(run, stage, ids, deadline)
        except SluiceError as error:
            return Ranking.of(scores), error
        each_s = run.pace_s = (perf_counter() - started) / len(ids)
    return Ranking.of(scores), None


async def _score_slice(run: Run, stage: Rerank, ids: tuple[str, ...], deadline: Deadline) -> list[tuple[str, float]]:
    scores, model = await run.services.reranking.score(
        run.query.text,
        [text_of(run.documents[id_]) or _NO_TEXT for id_ in ids],
        model=stage.model,
        deadline=deadline,
        patient=stage.on_error == "fail",
    )
    if run.models.setdefault(stage.name, model).digest != model.digest:
        raise Unavailable("reranking: another model answered midway; scores of two models do not compare")
    return list(zip(ids, scores, strict=True))


async def _refine(run: Run, stage: Refine, given: Ranking) -> tuple[Ranking, SluiceError | None]:
    """The candidates scored by their stored token vectors; and why some were not."""
    bound = run.plan.bound[stage.name]
    embedded = bound.error or run.embedded[bound.model]
    if isinstance(embedded, SluiceError) or not given:
        return Ranking(), embedded if isinstance(embedded, SluiceError) else None
    try:
        check_fit(bound, embedded, "multi_vector")
    except PreconditionFailed as error:
        raise Outdated(error) from error
    queries = cascade_queries(embedded, list(run.asked.values()), field=bound.field)
    try:
        found = await run.services.retrieval.retrieve(
            run.query.collection, queries, only=run.query.only, deadline=run.stage_deadline(stage), ids_only=True
        )
    except SluiceError as error:
        if is_misfit(error):
            raise Outdated(error) from error
        return Ranking(), error
    scores = {id_: score for ranking in found.rankings for id_, score in ranking.items()}
    scored = Ranking.of((id_, scores[id_]) for id_ in given.ids if id_ in scores)
    if len(scored) == len(given):
        return scored, None
    if found.coverage < 1:
        return scored, DeadlineExpired(f"retrieval: there was time to score {len(scored)} of {len(given)} candidates")
    gone = len(given) - len(scored)
    return scored, Unavailable(f"{gone} of {len(given)} candidates were deleted, or replaced, during the search")
