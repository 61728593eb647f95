"""The front of a search: the query embedded once for all, retrievers side by side, one ranking of what they found."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import DeadlineExpired, NotFound, PreconditionFailed, SluiceError

from services.core.fusion import rrf
from services.core.ranking import Ranking
from services.orchestrator.chunks import best_of_each_parent, is_chunk, parent_of
from services.orchestrator.downstream.queries import MAX_DEPTH, FieldQuery, text_queries, vector_queries
from services.orchestrator.downstream.retrieval import Candidates
from services.orchestrator.downstream.vectors import EmbeddingBatch, Kind
from services.orchestrator.pipelines.binding import Bound
from services.orchestrator.pipelines.schema import EMBED, FUSE, Retriever
from services.orchestrator.search.execution import Report, Run, Status
from services.rpc.deadline import Deadline
from services.rpc.observability import traces

# Vectors or why there are none, and the seconds it took.
_Embedding = tuple[EmbeddingBatch | SluiceError, float]
# Chunks fetched for each parent that is wanted, at first; then ever more, until there are enough parents.
_CHUNKS_A_PARENT = 4


class Outdated(Exception):
    """The collection, or the model, is not what it was when the search was planned. Carries what was refused."""

    def __init__(self, reason: SluiceError) -> None:
        super().__init__(reason.message)
        self.reason = reason


@dataclass(frozen=True)
class _Found:
    """What one retriever found."""

    ranking: Ranking
    candidates: Candidates
    queries: list[FieldQuery]


async def candidates(run: Run) -> Ranking:
    """What all retrievers found, as one ranking.

    Raises what a retriever raised that may not be skipped, the first error when all were skipped, and Outdated.
    """
    retrievers = run.plan.pipeline.retrieve
    try:
        async with asyncio.TaskGroup() as group:
            deadlines = {stage.name: run.stage_deadline(stage) for stage in (*retrievers, *run.plan.encoded)}
            embedding = {
                model: group.create_task(_embed(run, model, _latest(run, model, deadlines)))
                for model in run.plan.encodings
            }
            tasks = [group.create_task(_traced(run, one, embedding, deadlines[one.name])) for one in retrievers]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    _report_embed(run, [task.result() for task in embedding.values()])
    run.embedded = {model: task.result()[0] for model, task in embedding.items()}
    found = [task.result() for task in tasks]
    planned = [(one, report) for one, report in found if report.status != "left_out"]
    run.shares.append(sum(one.candidates.coverage if one else 0.0 for one, _ in planned) / len(planned))
    for stage, (one, report) in zip(retrievers, found, strict=True):
        _keep(run, stage.name, one, report)
    return _fuse(run, {stage.name: one for stage, (one, _) in zip(retrievers, found, strict=True) if one})


async def _embed(run: Run, model: str, deadline: Deadline) -> _Embedding:
    """The vectors of the query's wordings, or why there are none; and the seconds it took.

    A service that is away is waited for only where the search cannot do without it.
    """
    started = perf_counter()
    result: EmbeddingBatch | SluiceError
    with traces.part(EMBED) as span:
        try:
            result = await run.services.embedding.embed_queries(
                run.query.wordings,
                model=model,
                kinds=run.plan.encodings[model],
                deadline=deadline,
                patient=run.plan.depends_on(model),
            )
        except SluiceError as error:
            result = error
            span.set({"sluice.status": "skipped", "sluice.reason": error.reason_name})
    return result, perf_counter() - started


async def _traced(
    run: Run, stage: Retriever, embedding: "Mapping[str, asyncio.Task[_Embedding]]", deadline: Deadline
) -> tuple[_Found | None, Report]:
    with traces.part(stage.name) as span:
        found, report = await _retrieve(run, stage, embedding, deadline)
        span.set(report.attributes())
    return found, report


async def _retrieve(
    run: Run, stage: Retriever, embedding: "Mapping[str, asyncio.Task[_Embedding]]", deadline: Deadline
) -> tuple[_Found | None, Report]:
    """What the retriever found; nothing when it was left out, or failed and may be skipped."""
    started = perf_counter()
    if run.plan.bound[stage.name].is_left_out:
        return None, Report(stage.name, "left_out", 0, 0, 0, 0.0)
    try:
        queries = await _wanted(run, stage, embedding)
        started = perf_counter()
        found = await _found(run, stage, queries, deadline)
    except SluiceError as error:
        if is_misfit(error) and not run.plan.bound[stage.name].error:
            raise Outdated(error) from error
        if not stage.forgives(error):
            raise
        return None, Report(stage.name, "skipped", 0, 0, 0, perf_counter() - started, error)
    late = _lateness(found.candidates.coverage)
    if late is not None and stage.on_timeout == "fail":
        raise late
    status: Status = "ok" if late is None else "partial"
    kept = len(found.ranking)
    return found, Report(stage.name, status, 0, kept, kept, perf_counter() - started, late)


async def _wanted(run: Run, stage: Retriever, embedding: "Mapping[str, asyncio.Task[_Embedding]]") -> list[FieldQuery]:
    """What a retriever asks for, as soon as it is known. Raises what kept the vectors away."""
    bound = run.plan.bound[stage.name]
    if bound.error is not None:
        raise bound.error
    depth = min(MAX_DEPTH, stage.depth * _CHUNKS_A_PARENT) if run.by_parent else stage.depth
    if stage.kind == "text":
        return text_queries(run.query.wordings, field=bound.field, depth=depth)
    vectors, _ = await embedding[bound.model]
    if isinstance(vectors, SluiceError):
        raise vectors
    check_fit(bound, vectors, stage.kind)
    return vector_queries(vectors, stage.kind, field=bound.field, depth=depth)


async def _found(run: Run, stage: Retriever, queries: list[FieldQuery], deadline: Deadline) -> _Found:
    """What retrieval has for the queries; asked again, deeper, while there are too few parents among many chunks."""
    while True:
        candidates = await run.services.retrieval.retrieve(
            run.query.collection, queries, only=run.query.only, deadline=deadline
        )
        _check_chunked(run, candidates)
        ranking = _joined(candidates.rankings)
        depth = queries[0].depth
        if not run.by_parent:
            return _Found(ranking.top(stage.depth), candidates, queries)
        parents = len({parent_of(id_) for id_ in ranking.ids})
        is_all = all(len(one) < depth for one in candidates.rankings)
        if parents >= stage.depth or is_all or depth >= MAX_DEPTH or candidates.coverage < 1:
            return _Found(ranking, candidates, queries)
        for query in queries:
            query.depth = min(MAX_DEPTH, depth * _CHUNKS_A_PARENT)


def _check_chunked(run: Run, candidates: Candidates) -> None:
    """Raise Outdated when a plan of a moment ago was for chunks and whole documents were found, or the other way."""
    for document in candidates.documents.values():
        if not run.is_fresh and is_chunk(document) != run.plan.is_chunked:
            message = f"collection {run.query.collection!r} changed between chunks and whole documents"
            reason = ErrorReason.ERROR_REASON_COLLECTION_MISMATCH
            raise Outdated(PreconditionFailed(message, reason=reason))
        return


def is_misfit(error: SluiceError) -> bool:
    """Whether an error says that the plan does not fit the collection, or the models, as they are now."""
    if isinstance(error, NotFound):
        return error.reason == ErrorReason.ERROR_REASON_UNKNOWN_MODEL
    return isinstance(error, PreconditionFailed)


def check_fit(bound: Bound, vectors: EmbeddingBatch, kind: Kind) -> None:
    """Raise PreconditionFailed when the vectors of a query are not those that the field takes."""
    given, takes = vectors.dimensions(kind), bound.takes
    if takes.digest in {"", vectors.model.digest} and takes.dimensions in {0, given}:
        return
    made_for = f"vectors of the model {takes.digest:.12}" if takes.digest else "vectors"
    raise PreconditionFailed(
        f"field {bound.field!r} takes {made_for} with {takes.dimensions} dimensions; the embedding service gives "
        f"vectors of {vectors.model.name}@{vectors.model.version} ({vectors.model.digest:.12}) with {given} dimensions",
        reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
        metadata={"expected_digest": takes.digest, "given_digest": vectors.model.digest},
    )


def _lateness(coverage: float) -> DeadlineExpired | None:
    """Why not all documents were looked at; None when they were."""
    if coverage >= 1:
        return None
    return DeadlineExpired(
        f"retrieval: there was time to look at {coverage:.0%} of the documents",
        reason=ErrorReason.ERROR_REASON_DEADLINE_EXPIRED,
    )


def _keep(run: Run, name: str, found: _Found | None, report: Report) -> None:
    run.report(report)
    if found is not None:
        run.stages.append((name, found.ranking))
        run.asked[name] = found.queries
        run.documents.update(found.candidates.documents)
        run.answered_by(found.candidates.collection_version)


def _fuse(run: Run, found: Mapping[str, _Found]) -> Ranking:
    """One ranking of what was found. Raises the first retriever's error when nothing was."""
    fusion, rankings = run.plan.pipeline.fuse, {name: one.ranking for name, one in found.items()}
    if not rankings:
        raise next(report.error for report in run.reports if report.error is not None)
    if fusion is None:
        [ranking] = rankings.values()
        return best_of_each_parent(ranking).top(run.plan.pipeline.retrieve[0].depth) if run.by_parent else ranking
    started = perf_counter()
    fused = fusion.fuse(rankings)
    given = len(fused)
    fused = (best_of_each_parent(fused) if run.by_parent else fused).top(fusion.depth)
    run.report(Report(FUSE, "ok", given, len(fused), len(fused), perf_counter() - started))
    run.stages.append((FUSE, fused))
    return fused


def _report_embed(run: Run, results: list[_Embedding]) -> None:
    """One report for all embedding models: they ran side by side. None when no vectors were needed."""
    if not results:
        return
    errors = [result for result, _ in results if isinstance(result, SluiceError)]
    status: Status = "ok" if not errors else "partial" if len(errors) < len(results) else "skipped"
    duration = max(seconds for _, seconds in results)
    run.report(Report(EMBED, status, 0, 0, 0, duration, errors[0] if errors else None))
    for result, _ in results:
        if isinstance(result, EmbeddingBatch):
            run.models[result.model.digest] = result.model


def _latest(run: Run, model: str, deadlines: Mapping[str, Deadline]) -> Deadline:
    """The latest deadline of those stages that need a model."""
    return max((deadlines[stage.name] for stage in run.plan.needing(model)), key=lambda deadline: deadline.at)


def _joined(rankings: tuple[Ranking, ...]) -> Ranking:
    """One ranking of what each wording found: as it is for one, by reciprocal rank for several."""
    return rankings[0] if len(rankings) == 1 else rrf(rankings)
