"""The first part of a search: embed the query once, run the retrievers side by side, and fuse what they found."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import DeadlineExpired, PreconditionFailed, SluiceError

from services.core.fusion import rrf
from services.core.ranking import Ranking
from services.orchestrator.chunks import best_of_each_parent, is_chunk, parent_of
from services.orchestrator.downstream.queries import MAX_DEPTH, FieldQuery, text_queries, vector_queries
from services.orchestrator.downstream.retrieval import Candidates
from services.orchestrator.downstream.truncation import Truncation
from services.orchestrator.downstream.vectors import EmbeddingBatch, Model
from services.orchestrator.pipelines.binding import Encoding
from services.orchestrator.pipelines.schema import EMBED, FUSE, Retriever, Rrf, WeightedSum
from services.orchestrator.search.execution import (
    Retrieved,
    SearchContext,
    StageReport,
    StageResult,
    StalePlan,
    Status,
    shows_stale_plan,
)
from services.rpc.deadline import Deadline
from services.rpc.observability import traces

# The vectors of the query, or the error of embedding it, and the seconds it took.
_Embedding = tuple[EmbeddingBatch | SluiceError, float]
_Embeddings = Mapping[str, "asyncio.Task[_Embedding]"]
# A search by parent fetches this many chunks for each parent at first, and this many times more in each further round.
_CHUNKS_PER_PARENT: Final = 4


@dataclass(frozen=True)
class _Found:
    """What one retriever found."""

    ranking: Ranking
    candidates: Candidates
    queries: list[FieldQuery]


_Outcome = tuple[_Found | None, StageReport]


async def retrieve(context: SearchContext) -> Retrieved:
    """Return what the retrievers of the plan found.

    Raises the error of a retriever that must not be skipped, and StalePlan.
    """
    retrievers, encodings = context.plan.pipeline.retrieve, context.plan.encodings
    try:
        async with asyncio.TaskGroup() as group:
            needing = [stage for encoding in encodings.values() for stage in encoding.stages]
            deadlines = {stage.name: context.deadline_of(stage) for stage in (*retrievers, *needing)}
            embeddings = {
                model: group.create_task(_embed(context, model, encoding, _latest(encoding, deadlines)))
                for model, encoding in encodings.items()
            }
            tasks = [
                group.create_task(_run_retriever(context, stage, embeddings, deadlines[stage.name]))
                for stage in retrievers
            ]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    embedded = [task.result() for task in embeddings.values()]
    outcomes = [task.result() for task in tasks]
    return Retrieved(
        results=(*_embedding_results(embedded), *_results(context, outcomes)),
        vectors=dict(zip(embeddings, (vectors for vectors, _ in embedded), strict=True)),
        queries={report.stage: found.queries for found, report in outcomes if found},
    )


async def _embed(context: SearchContext, model: str, encoding: Encoding, deadline: Deadline) -> _Embedding:
    """Return the vectors of all wordings, or the error, and the seconds it took.

    Waits for a service that is unavailable only if the search needs the vectors.
    """
    started = perf_counter()
    result: EmbeddingBatch | SluiceError
    with traces.part(EMBED) as span:
        try:
            result = await context.services.embedding.embed_queries(
                context.query.wordings,
                model=model,
                kinds=encoding.kinds,
                deadline=deadline,
                patient=encoding.is_required,
            )
        except SluiceError as error:
            result = error
            span.set({"sluice.status": "skipped", "sluice.reason": error.reason_name})
    return result, perf_counter() - started


async def _run_retriever(
    context: SearchContext, stage: Retriever, embeddings: _Embeddings, deadline: Deadline
) -> _Outcome:
    """Return what a retriever found, as one span of the trace."""
    with traces.part(stage.name) as span:
        found, report = await _try_retriever(context, stage, embeddings, deadline)
        span.set(report.attributes())
    return found, report


async def _try_retriever(
    context: SearchContext, stage: Retriever, embeddings: _Embeddings, deadline: Deadline
) -> _Outcome:
    """Return what a retriever found; nothing if the plan leaves it out, or if it failed and may be skipped."""
    binding, started = context.plan.bindings[stage.name], perf_counter()
    if binding.is_left_out:
        return None, StageReport(stage.name, "left_out", 0, 0, 0, 0.0)
    try:
        queries = await _queries(context, stage, embeddings)
        started = perf_counter()
        found = await _find(context, stage, queries, deadline)
    except SluiceError as error:
        if shows_stale_plan(error) and not binding.error:
            raise StalePlan(error) from error
        if not stage.forgives(error):
            raise
        return None, StageReport(stage.name, "skipped", 0, 0, 0, perf_counter() - started, error)
    error_of_time = _coverage_error(found.candidates.coverage)
    if error_of_time is not None and stage.on_timeout == "fail":
        raise error_of_time
    status: Status = "ok" if error_of_time is None else "partial"
    kept = len(found.ranking)
    return found, StageReport(stage.name, status, 0, kept, kept, perf_counter() - started, error_of_time)


async def _queries(context: SearchContext, stage: Retriever, embeddings: _Embeddings) -> list[FieldQuery]:
    """Return the queries of a retriever, once the vectors are there. Raises the error of binding or embedding."""
    binding = context.plan.bindings[stage.name]
    if binding.error is not None:
        raise binding.error
    depth = min(MAX_DEPTH, stage.depth * _CHUNKS_PER_PARENT) if context.by_parent else stage.depth
    if stage.kind == "text":
        return text_queries(context.query.wordings, field=binding.field, depth=depth)
    vectors, _ = await embeddings[binding.model]
    if isinstance(vectors, SluiceError):
        raise vectors
    binding.check(vectors, stage.kind)
    return vector_queries(vectors, stage.kind, field=binding.field, depth=depth)


async def _find(context: SearchContext, stage: Retriever, queries: list[FieldQuery], deadline: Deadline) -> _Found:
    """Return the candidates of the queries. A search by parent repeats them, deeper, until there are enough parents."""
    while True:
        candidates = await context.services.retrieval.retrieve(
            context.query.collection, queries, only=context.query.only, deadline=deadline
        )
        _check_chunks(context, candidates)
        ranking = _join_wordings(candidates.rankings)
        if not context.by_parent:
            return _Found(ranking.top(stage.depth), candidates, queries)
        depth = queries[0].depth
        parents = len({parent_of(id_) for id_ in ranking.ids})
        is_all = all(len(one) < depth for one in candidates.rankings)
        if parents >= stage.depth or is_all or depth >= MAX_DEPTH or candidates.coverage < 1:
            return _Found(ranking, candidates, queries)
        for query in queries:
            query.depth = min(MAX_DEPTH, depth * _CHUNKS_PER_PARENT)


def _check_chunks(context: SearchContext, candidates: Candidates) -> None:
    """Raise StalePlan if an older plan expects chunks and the collection has whole documents, or the reverse."""
    first = next(iter(candidates.documents.values()), None)
    if first is None or context.is_fresh or is_chunk(first) == context.plan.is_chunked:
        return
    message = f"collection {context.query.collection!r} changed between chunks and whole documents"
    raise StalePlan(PreconditionFailed(message, reason=ErrorReason.ERROR_REASON_COLLECTION_MISMATCH))


def _coverage_error(coverage: float) -> DeadlineExpired | None:
    """Return the error of a retriever that did not compare all documents; None if it did."""
    if coverage >= 1:
        return None
    return DeadlineExpired(
        f"retrieval: there was time to compare {coverage:.0%} of the documents",
        reason=ErrorReason.ERROR_REASON_DEADLINE_EXPIRED,
    )


def _embedding_results(embedded: Sequence[_Embedding]) -> list[StageResult]:
    """Return one result for all embedding models, because they run side by side; none if no vectors were needed."""
    if not embedded:
        return []
    errors = [vectors for vectors, _ in embedded if isinstance(vectors, SluiceError)]
    batches = [vectors for vectors, _ in embedded if isinstance(vectors, EmbeddingBatch)]
    models: dict[str, Model] = {vectors.model.digest: vectors.model for vectors in batches}
    truncation = Truncation.of(count for vectors in batches for count in vectors.dropped)
    status: Status = "ok" if not errors else "partial" if len(errors) < len(embedded) else "skipped"
    duration = max(seconds for _, seconds in embedded)
    report = StageReport(EMBED, status, 0, 0, 0, duration, errors[0] if errors else None, truncation)
    return [StageResult(report, Ranking(), models=tuple(models.values()))]


def _results(context: SearchContext, outcomes: Sequence[_Outcome]) -> list[StageResult]:
    """Return a result for each retriever, and one for the fusion if there is one.

    The last of them has the coverage of all retrievers.
    """
    fusion = context.plan.pipeline.fuse
    results = [_retriever_result(found, report) for found, report in outcomes]
    planned = [found for found, report in outcomes if report.status != "left_out"]
    coverage = sum(found.candidates.coverage if found else 0.0 for found in planned) / len(planned)
    if fusion is None:
        [only] = results
        depth = context.plan.pipeline.retrieve[0].depth
        ranking = best_of_each_parent(only.ranking).top(depth) if context.by_parent else only.ranking
        return [replace(only, ranking=ranking, coverage=coverage)]
    rankings = {report.stage: found.ranking for found, report in outcomes if found}
    return [*results, _fuse(context, fusion, rankings, coverage)] if rankings else results


def _retriever_result(found: _Found | None, report: StageReport) -> StageResult:
    if found is None:
        return StageResult(report, Ranking())
    version = found.candidates.collection_version
    return StageResult(report, found.ranking, found.ranking, found.candidates.documents, collection_version=version)


def _fuse(
    context: SearchContext, fusion: Rrf | WeightedSum, rankings: Mapping[str, Ranking], coverage: float
) -> StageResult:
    """Return the rankings of the retrievers as one, with the coverage of all retrievers."""
    started = perf_counter()
    fused = fusion.fuse(rankings)
    kept = (best_of_each_parent(fused) if context.by_parent else fused).top(fusion.depth)
    report = StageReport(FUSE, "ok", len(fused), len(kept), len(kept), perf_counter() - started)
    return StageResult(report, kept, kept, coverage=coverage)


def _latest(encoding: Encoding, deadlines: Mapping[str, Deadline]) -> Deadline:
    """Return the latest deadline of the stages that need the vectors of one model."""
    return max((deadlines[stage.name] for stage in encoding.stages), key=lambda deadline: deadline.at)


def _join_wordings(rankings: tuple[Ranking, ...]) -> Ranking:
    """Return one ranking of what each wording found: unchanged for one, by reciprocal rank fusion for several."""
    return rankings[0] if len(rankings) == 1 else rrf(rankings)
