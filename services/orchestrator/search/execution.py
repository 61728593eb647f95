"""The values of one search: what its stages share, and what each stage returns.

Rule: everything here is immutable. `answer.py` folds the results of the stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.filter_pb2 import Filter
from sluice.errors import NotFound, PreconditionFailed, SluiceError

from services.core.ranking import Ranking
from services.orchestrator.downstream.queries import FieldQuery
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.truncation import Truncation
from services.orchestrator.downstream.vectors import EmbeddingBatch, Model
from services.orchestrator.pipelines.binding import Plan
from services.orchestrator.pipelines.schema import Feedback, Refine, Rerank, Retriever
from services.orchestrator.search.budget import allowance_s
from services.rpc.deadline import Deadline

Status = Literal["ok", "skipped", "partial", "left_out"]
_EMPTY: Final = Ranking()
_WHOLE: Final = Truncation()


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
    truncation: Truncation = _WHOLE
    """Texts that its model truncated: wordings of the query, or candidates of a reranker."""

    def attributes(self) -> dict[str, str | int]:
        """Return the attributes of the stage's span in a trace."""
        counts = {"sluice.given": self.given, "sluice.kept": self.kept, "sluice.scored": self.scored}
        reason = {"sluice.reason": self.error.reason_name} if self.error else {}
        truncated = {"sluice.truncated": self.truncation.texts} if self.truncation.texts else {}
        return {"sluice.stage": self.stage, "sluice.status": self.status, **counts, **reason, **truncated}


@dataclass(frozen=True)
class Scores:
    """A reranker's own scores, before interpolation."""

    ranking: Ranking = _EMPTY
    """The candidates that were scored."""
    model: Model | None = None
    """The model that scored them."""
    candidate_s: float = 0.0
    """Seconds per candidate in the last call."""
    truncation: Truncation = _WHOLE
    """Candidates that the model truncated, and the query."""
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
