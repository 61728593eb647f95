"""Runs one pipeline for one query: the only place that knows budgets and failure.

    embed, retrieve (side by side) ──▶ fuse ──▶ refine ──▶ rerank ──▶ rerank ──▶ the best top_k

Rule: a stage that may be skipped never makes a search fail, and whatever it did not do is in its report.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.filter_pb2 import Filter
from sluice.errors import BackendFailed, DeadlineExpired, SluiceError

from services.core.fusion import below, interpolate, rrf, weighted_sum
from services.core.ranking import Ranking
from services.orchestrator.budget import allowance_s, has_time_for
from services.orchestrator.documents import text_of
from services.orchestrator.pipelines import EMBED, FUSE, Pipeline, Refine, Rerank, Retriever, Rrf, WeightedSum
from services.orchestrator.remote import Candidates, FieldQuery, Services, staged_queries, text_queries, vector_queries
from services.orchestrator.vectors import Embedded, Model
from services.rpc.deadline import Deadline
from services.rpc.metrics import SEARCHES, STAGE, STAGE_CANDIDATES, STAGE_DEGRADED

Status = Literal["ok", "skipped", "partial"]
# Vectors or why there are none, and the seconds it took.
_Embedding = tuple[Embedded | SluiceError, float]


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    collection: str
    text: str
    top_k: int
    only: Filter | None = None
    more_texts: tuple[str, ...] = ()
    """Other wordings, for retrievers."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """All the texts that retrievers look for."""
        return (self.text, *self.more_texts)


@dataclass(frozen=True)
class Report:
    """What one stage did."""

    stage: str
    status: Status
    given: int
    kept: int
    scored: int
    duration_s: float
    error: SluiceError | None = None
    """Why it is not ok."""


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
    """The least share of its work that the retrievers together, or a reranker, did; 1 for a full answer."""

    @property
    def degraded(self) -> bool:
        """Whether a stage did not do all its work."""
        return any(report.status != "ok" for report in self.reports)


@dataclass(frozen=True)
class _Found:
    """What one retriever found."""

    ranking: Ranking
    candidates: Candidates
    queries: list[FieldQuery]
    """What it asked for: a query for each wording."""


async def search(services: Services, name: str, pipeline: Pipeline, query: Query, deadline: Deadline) -> Answer:
    """The answer of a pipeline within the deadline. Raises what a stage raised that may not be skipped."""
    run = _Run(services, name, query, deadline)
    ranking = await run.candidates(pipeline)
    for stage in pipeline.narrowing:
        ranking = await run.narrow(stage, ranking)
    answer = Answer(
        run.cut(pipeline, ranking).top(query.top_k),
        run.documents,
        tuple(run.stages),
        tuple(run.reports),
        tuple(run.models.values()),
        run.collection_version,
        min(run.shares),
    )
    SEARCHES.labels(name, "degraded" if answer.degraded else "full").inc()
    return answer


@dataclass
class _Run:
    """One search under way."""

    services: Services
    pipeline_name: str
    query: Query
    deadline: Deadline
    documents: dict[str, Document] = field(default_factory=dict)
    stages: list[tuple[str, Ranking]] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    embedded: dict[str, Embedded | SluiceError] = field(default_factory=dict)
    """Vectors of the query by embedding model, or why there are none."""
    asked: list[list[FieldQuery]] = field(default_factory=list)
    """What each retriever that answered asked for: a query for each wording."""
    collection_version: int = 0
    shares: list[float] = field(default_factory=list)
    """How much of its work each part did, 0 to 1."""

    async def candidates(self, pipeline: Pipeline) -> Ranking:
        """What the retrievers found, fused when they are several."""
        deadlines = {stage.name: self._deadline(stage) for stage in (*pipeline.retrieve, *pipeline.encoded)}
        try:
            async with asyncio.TaskGroup() as group:
                embedding = {
                    model: group.create_task(self._embed(pipeline, model, _latest(pipeline, model, deadlines)))
                    for model in pipeline.encodings
                }
                tasks = [
                    group.create_task(self._retrieve(stage, embedding, deadlines[stage.name]))
                    for stage in pipeline.retrieve
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self._report_embed([task.result() for task in embedding.values()])
        self.embedded = {model: task.result()[0] for model, task in embedding.items()}
        found = [task.result() for task in tasks]
        self.shares.append(sum(one is not None for one, _ in found) / len(found))
        for stage, (one, report) in zip(pipeline.retrieve, found, strict=True):
            self._keep(stage.name, one, report)
        return self._fuse(pipeline, [one for one, _ in found])

    async def narrow(self, stage: Refine | Rerank, before: Ranking) -> Ranking:
        """The best of `before`, ordered anew as far as time allowed; the rest follows in the order it had."""
        started = perf_counter()
        given = before.top(stage.depth)
        scored, error = await (self._score(stage, given) if isinstance(stage, Rerank) else self._refine(stage, given))
        if error and not stage.forgives(error):
            raise error
        if stage.interpolate:
            mix = stage.interpolate
            scored = interpolate(given, scored, weight=mix.weight, normalisation=mix.normalisation)
        status: Status = "ok" if error is None else "partial" if scored else "skipped"
        self._report(Report(stage.name, status, len(before), len(given), len(scored), perf_counter() - started, error))
        self.shares.append(len(scored) / len(given) if given else 1.0)
        if scored:
            self.stages.append((stage.name, scored))
        return below(scored, given)

    def cut(self, pipeline: Pipeline, ranking: Ranking) -> Ranking:
        """The ranking up to the pipeline's cut-off; whole when the last stage did not do all its work."""
        is_whole = self.reports[-1].stage == pipeline.last_stage and self.reports[-1].status == "ok"
        if pipeline.cut_off is None or not is_whole:
            return ranking
        return ranking.cut(min_score=pipeline.cut_off.min_score, max_drop=pipeline.cut_off.max_drop)

    async def _refine(self, stage: Refine, given: Ranking) -> tuple[Ranking, SluiceError | None]:
        """The candidates scored by their stored token vectors; and why some were not."""
        embedded = self.embedded[stage.model]
        if isinstance(embedded, SluiceError) or not given:
            return Ranking(), embedded if isinstance(embedded, SluiceError) else None
        queries = staged_queries(embedded, self.asked, field=stage.field)
        try:
            found = await self.services.retrieval.retrieve(
                self.query.collection, queries, only=self.query.only, deadline=self._deadline(stage), ids_only=True
            )
        except SluiceError as error:
            return Ranking(), error
        scores = {id_: score for ranking in found.rankings for id_, score in ranking.items()}
        scored = Ranking.of((id_, scores[id_]) for id_ in given.ids if id_ in scores)
        if len(scored) < len(given):
            return scored, BackendFailed(f"retrieval: expected scores of {len(given)} candidates, got {len(scored)}")
        return scored, None

    async def _score(self, stage: Rerank, given: Ranking) -> tuple[Ranking, SluiceError | None]:
        """The candidates scored slice by slice until all are, time ends or a call fails; and why it ended early."""
        deadline, each_s, scores = self._deadline(stage), 0.0, list[tuple[str, float]]()
        while ids := given.ids[len(scores) : len(scores) + stage.slice]:
            if not has_time_for(len(ids), deadline.remaining_s(), each_s):
                message = f"there was time to score {len(scores)} of {len(given)} candidates"
                return Ranking.of(scores), DeadlineExpired(message)
            started = perf_counter()
            try:
                scores += await self._score_slice(stage, ids, deadline)
            except SluiceError as error:
                return Ranking.of(scores), error
            each_s = (perf_counter() - started) / len(ids)
        return Ranking.of(scores), None

    async def _score_slice(self, stage: Rerank, ids: tuple[str, ...], deadline: Deadline) -> list[tuple[str, float]]:
        scores, model = await self.services.reranking.score(
            self.query.text,
            [text_of(self.documents[id_]) for id_ in ids],
            model=stage.model,
            deadline=deadline,
            patient=stage.on_error == "fail",
        )
        if self.models.setdefault(stage.name, model).digest != model.digest:
            raise BackendFailed("reranking: expected one model for all candidates, got another one midway")
        return list(zip(ids, scores, strict=True))

    async def _embed(self, pipeline: Pipeline, model: str, deadline: Deadline) -> _Embedding:
        """The vectors of the query's wordings, or why there are none; and the seconds it took.

        A service that is away is waited for only where the search cannot do without it.
        """
        started = perf_counter()
        result: Embedded | SluiceError
        try:
            result = await self.services.embedding.embed_queries(
                self.query.wordings,
                model=model,
                kinds=pipeline.encodings[model],
                deadline=deadline,
                patient=any(stage.on_error == "fail" for stage in pipeline.needing(model)),
            )
        except SluiceError as error:
            result = error
        return result, perf_counter() - started

    async def _wanted(self, stage: Retriever, embedding: "Mapping[str, asyncio.Task[_Embedding]]") -> list[FieldQuery]:
        """What a retriever asks for, as soon as it is known. Raises what kept the vectors away."""
        if stage.kind == "text":
            return text_queries(self.query.wordings, field=stage.field, depth=stage.depth)
        vectors, _ = await embedding[stage.model]
        if isinstance(vectors, SluiceError):
            raise vectors
        return vector_queries(vectors, stage.kind, field=stage.field, depth=stage.depth)

    async def _retrieve(
        self, stage: Retriever, embedding: "Mapping[str, asyncio.Task[_Embedding]]", deadline: Deadline
    ) -> tuple[_Found | None, Report]:
        """What the retriever found; nothing when it failed and may be skipped."""
        started = perf_counter()
        try:
            queries = await self._wanted(stage, embedding)
            started = perf_counter()
            candidates = await self.services.retrieval.retrieve(
                self.query.collection, queries, only=self.query.only, deadline=deadline
            )
        except SluiceError as error:
            if not stage.forgives(error):
                raise
            return None, Report(stage.name, "skipped", 0, 0, 0, perf_counter() - started, error)
        ranking = _joined(candidates.rankings).top(stage.depth)
        report = Report(stage.name, "ok", 0, len(ranking), len(ranking), perf_counter() - started)
        return _Found(ranking, candidates, queries), report

    def _keep(self, name: str, found: _Found | None, report: Report) -> None:
        self._report(report)
        if found is not None:
            self.stages.append((name, found.ranking))
            self.asked.append(found.queries)
            self.documents.update(found.candidates.documents)
            versions = (self.collection_version, found.candidates.collection_version)
            self.collection_version = min(versions) or max(versions)

    def _fuse(self, pipeline: Pipeline, found: list[_Found | None]) -> Ranking:
        """One ranking of what was found. Raises the first retriever's error when nothing was."""
        names = [stage.name for stage, one in zip(pipeline.retrieve, found, strict=True) if one]
        rankings = [one.ranking for one in found if one]
        if not rankings:
            raise next(report.error for report in self.reports if report.error is not None)
        if pipeline.fuse is None:
            return rankings[0]
        started = perf_counter()
        fused = _fused(pipeline.fuse, names, rankings).top(pipeline.fuse.depth)
        given = len({id_ for ranking in rankings for id_ in ranking.ids})
        self._report(Report(FUSE, "ok", given, len(fused), len(fused), perf_counter() - started))
        self.stages.append((FUSE, fused))
        return fused

    def _report_embed(self, results: list[_Embedding]) -> None:
        """One report for all embedding models: they ran side by side. None when no vectors were needed."""
        if not results:
            return
        errors = [result for result, _ in results if isinstance(result, SluiceError)]
        status: Status = "ok" if not errors else "partial" if len(errors) < len(results) else "skipped"
        duration = max(seconds for _, seconds in results)
        self._report(Report(EMBED, status, 0, 0, 0, duration, errors[0] if errors else None))
        for result, _ in results:
            if isinstance(result, Embedded):
                self.models[result.model.digest] = result.model

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        STAGE.labels(self.pipeline_name, report.stage).observe(report.duration_s)
        if report.stage != EMBED:
            STAGE_CANDIDATES.labels(self.pipeline_name, report.stage).observe(report.kept)
        if report.error is not None:
            STAGE_DEGRADED.labels(self.pipeline_name, report.stage, report.error.reason_name).inc()

    def _deadline(self, stage: Retriever | Refine | Rerank) -> Deadline:
        """When a stage that starts now must end."""
        remaining = self.deadline.remaining_s()
        return Deadline.after(allowance_s(remaining, share=stage.share, skippable=stage.may_run_out_of_time))


def _latest(pipeline: Pipeline, model: str, deadlines: Mapping[str, Deadline]) -> Deadline:
    """The latest deadline of those stages that need a model."""
    return max((deadlines[stage.name] for stage in pipeline.needing(model)), key=lambda deadline: deadline.at)


def _joined(rankings: tuple[Ranking, ...]) -> Ranking:
    """One ranking of what each wording found: as it is for one, by reciprocal rank for several."""
    return rankings[0] if len(rankings) == 1 else rrf(rankings)


def _fused(fusion: Rrf | WeightedSum, names: list[str], rankings: list[Ranking]) -> Ranking:
    """The rankings of the named retrievers as one."""
    if isinstance(fusion, Rrf):
        return rrf(rankings, constant=fusion.constant)
    return weighted_sum(rankings, [fusion.weights[name] for name in names], fusion.normalisation)
