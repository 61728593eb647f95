"""The values of one search: what its stages share, what each stage returns, and the answer that they add up to.

Rule: everything here is immutable. A stage returns a StageResult; `Answer.with_results` folds results into the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.filter_pb2 import Filter
from sluice.errors import NotFound, PreconditionFailed, SluiceError

from services.core.ranking import Ranking
from services.orchestrator.downstream.queries import FieldQuery
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import EmbeddingBatch, Model
from services.orchestrator.pipelines.binding import Plan
from services.orchestrator.pipelines.schema import Feedback, Refine, Rerank, Retriever
from services.orchestrator.search.budget import allowance_s
from services.rpc.deadline import Deadline

Status = Literal["ok", "skipped", "partial", "left_out"]
_EMPTY: Final = Ranking()
_COMPLETE: frozenset[Status] = frozenset({"ok", "left_out"})


class StalePlan(Exception):
    """The collection or the model changed after the search was planned. `reason` is the error that showed it."""

    def __init__(self, reason: SluiceError) -> None:
        super().__init__(reason.message)
        self.reason = reason


def shows_stale_plan(error: SluiceError) -> bool:
    """Return whether an error means that the plan no longer fits the collection or the models."""
    if isinstance(error, NotFound):
        return error.reason == ErrorReason.ERROR_REASON_UNKNOWN_MODEL
    return isinstance(error, PreconditionFailed)


@dataclass(frozen=True)
class Query:
    """The query of a search, with its options."""

    collection: str
    text: str
    top_k: int
    only: Filter | None = None
    """Restricts the search to documents that match."""
    more_texts: tuple[str, ...] = ()
    """Other wordings of the text, used by retrievers only."""
    by_parent: bool = False
    """Return only the best chunk of each parent."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """All wordings of the query. Retrievers search for each of them."""
        return (self.text, *self.more_texts)


@dataclass(frozen=True)
class SearchContext:
    """The inputs of a search. All its stages share them."""

    services: Services
    plan: Plan
    query: Query
    deadline: Deadline
    is_fresh: bool = True
    """The plan was made from the collection as it is now, not as it was some seconds ago."""

    @property
    def by_parent(self) -> bool:
        """Whether the search returns only the best chunk of each parent."""
        return self.query.by_parent and self.plan.is_chunked

    def deadline_of(self, stage: Retriever | Refine | Rerank | Feedback) -> Deadline:
        """Return the deadline of a stage that starts now."""
        remaining = self.deadline.remaining_s()
        return Deadline.after(allowance_s(remaining, share=stage.share, skippable=stage.may_run_out_of_time))


@dataclass(frozen=True)
class StageReport:
    """What one stage did, for the response, the metrics and the trace."""

    stage: str
    """Name of the stage."""
    status: Status
    given: int
    """Number of candidates that it received."""
    kept: int
    """Number of candidates that it passed on."""
    scored: int
    """Number of candidates that it scored itself."""
    duration_s: float
    error: SluiceError | None = None
    """Why the status is not `ok`."""

    def attributes(self) -> dict[str, str | int]:
        """Return the attributes of the stage's span in a trace."""
        counts = {"sluice.given": self.given, "sluice.kept": self.kept, "sluice.scored": self.scored}
        reason = {"sluice.reason": self.error.reason_name} if self.error else {}
        return {"sluice.stage": self.stage, "sluice.status": self.status, **counts, **reason}


@dataclass(frozen=True)
class Scores:
    """A reranker's own scores, before interpolation."""

    ranking: Ranking = _EMPTY
    """The candidates that were scored."""
    model: Model | None = None
    """The model that scored them."""
    candidate_s: float = 0.0
    """Seconds per candidate in the last call."""
    error: SluiceError | None = None
    """Why some candidates were not scored."""


@dataclass(frozen=True)
class StageResult:
    """What one stage returns."""

    report: StageReport
    ranking: Ranking
    """The candidates for the next stage."""
    ranked: Ranking | None = None
    """The candidates that the stage ranked itself, for the standings; None if it ranked none."""
    documents: Mapping[str, Document] = field(default_factory=dict)
    """The documents that it found, by id."""
    models: tuple[Model, ...] = ()
    """The models that it used."""
    coverage: float | None = None
    """The share of its work that it did; None if the stage does not count for the coverage of the answer."""
    collection_version: int = 0
    """The version of the collection that it read; 0 if it read none."""
    scores: Scores | None = None
    """The scores of a reranker."""


@dataclass(frozen=True)
class Retrieved:
    """What the first part of a search returns: the embedding of the query, the retrievers and the fusion."""

    results: tuple[StageResult, ...]
    """In this order: the embedding, if vectors were needed; each retriever; the fusion, if there is one."""
    vectors: Mapping[str, EmbeddingBatch | SluiceError]
    """The vectors of the query by embedding model, or the error of embedding it."""
    queries: Mapping[str, Sequence[FieldQuery]]
    """The queries of each retriever that answered, one for each wording; empty if none answered."""


@dataclass(frozen=True)
class Answer:
    """The answer of a search: the results of its stages, folded."""

    is_chunked: bool
    """Whether the documents are chunks."""
    ranking: Ranking = _EMPTY
    documents: Mapping[str, Document] = field(default_factory=dict)
    rankings: tuple[tuple[str, Ranking], ...] = ()
    """What each stage ranked itself, by its name, in the order of the stages."""
    reports: tuple[StageReport, ...] = ()
    models: tuple[Model, ...] = ()
    collection_version: int = 0
    """The oldest version that a stage read."""
    coverage: float = 1.0
    """The smallest share of its work that a stage did; 1 for a complete answer. All retrievers count as one stage."""

    @property
    def degraded(self) -> bool:
        """Whether a stage did not do all its work."""
        return any(report.status not in _COMPLETE for report in self.reports)

    def with_results(self, results: Sequence[StageResult]) -> "Answer":
        """Return the answer with the results of further stages."""
        versions = [one.collection_version for one in results if one.collection_version]
        return replace(
            self,
            ranking=results[-1].ranking,
            documents=_merge(self.documents, results),
            rankings=(*self.rankings, *((one.report.stage, one.ranked) for one in results if one.ranked is not None)),
            reports=(*self.reports, *(one.report for one in results)),
            models=(*self.models, *(model for one in results for model in one.models)),
            collection_version=min(versions + [self.collection_version] * (self.collection_version > 0), default=0),
            coverage=min([self.coverage, *(one.coverage for one in results if one.coverage is not None)]),
        )

    def cut(self, plan: Plan, top_k: int) -> "Answer":
        """Return the answer with the best `top_k` documents, up to the cut-off of the pipeline.

        The cut-off reads the scores of the last stage, so it applies only if that stage did all its work.
        """
        cut_off, last, ranking = plan.pipeline.cut_off, self.reports[-1], self.ranking
        if cut_off is not None and last.stage == plan.pipeline.last_stage and last.status == "ok":
            ranking = ranking.cut(min_score=cut_off.min_score, max_drop=cut_off.max_drop)
        return replace(self, ranking=ranking.top(top_k))


def _merge(documents: Mapping[str, Document], results: Sequence[StageResult]) -> Mapping[str, Document]:
    """Return the documents, with those that the results found."""
    found = [one.documents for one in results if one.documents]
    if not found:
        return documents
    merged = dict(documents)
    for some in found:
        merged.update(some)
    return merged
