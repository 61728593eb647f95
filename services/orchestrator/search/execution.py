"""One search under way: what its stages share, and what they tell of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.filter_pb2 import Filter
from sluice.errors import SluiceError

from services.core.ranking import Ranking
from services.orchestrator.downstream.queries import FieldQuery
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import EmbeddingBatch, Model
from services.orchestrator.pipelines.binding import Plan
from services.orchestrator.pipelines.schema import EMBED, Feedback, Refine, Rerank, Retriever
from services.orchestrator.search.budget import allowance_s
from services.rpc.deadline import Deadline
from services.rpc.observability.metrics import STAGE, STAGE_CANDIDATES, STAGE_DEGRADED

Status = Literal["ok", "skipped", "partial", "left_out"]
WHOLE: frozenset[Status] = frozenset({"ok", "left_out"})


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    collection: str
    text: str
    top_k: int
    only: Filter | None = None
    more_texts: tuple[str, ...] = ()
    """Other wordings, for retrievers."""
    by_parent: bool = False
    """One chunk a parent."""

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

    def attributes(self) -> dict[str, str | int]:
        """What a trace says of the stage: a full one and a partial one can be told apart."""
        counts = {"sluice.given": self.given, "sluice.kept": self.kept, "sluice.scored": self.scored}
        reason = {"sluice.reason": self.error.reason_name} if self.error else {}
        return {"sluice.stage": self.stage, "sluice.status": self.status, **counts, **reason}


@dataclass
class Run:
    """One search under way."""

    services: Services
    plan: Plan
    query: Query
    deadline: Deadline
    is_fresh: bool = True
    """The plan is for the collection as it was seen when the search began, not for one seen some seconds ago."""
    documents: dict[str, Document] = field(default_factory=dict)
    embedded: Mapping[str, EmbeddingBatch | SluiceError] = field(default_factory=dict)
    """Vectors of the query by embedding model, or why there are none."""
    asked: dict[str, list[FieldQuery]] = field(default_factory=dict)
    """What each retriever that answered asked for: a query for each wording."""
    scored: dict[str, Ranking] = field(default_factory=dict)
    """What each reranker scored, by its own scores."""
    pace_s: float = 0.0
    """Seconds a candidate took in the last slice of reranking."""
    stages: list[tuple[str, Ranking]] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    """By digest, or by the stage of a reranker."""
    shares: list[float] = field(default_factory=list)
    """Part of its work that was done, of the retrievers together and of each stage after them."""
    collection_version: int = 0

    @property
    def by_parent(self) -> bool:
        """Whether one chunk stands for each parent."""
        return self.query.by_parent and self.plan.is_chunked

    def report(self, report: Report) -> None:
        """Keep what a stage did, and count it."""
        self.reports.append(report)
        name = self.plan.name
        STAGE.labels(name, report.stage).observe(report.duration_s)
        if report.stage != EMBED:
            STAGE_CANDIDATES.labels(name, report.stage).observe(report.kept)
        if report.error is not None:
            STAGE_DEGRADED.labels(name, report.stage, report.error.reason_name).inc()

    def answered_by(self, version: int) -> None:
        """Note the version of the collection that a retriever read; the eldest counts."""
        self.collection_version = min(self.collection_version, version) or max(self.collection_version, version)

    def stage_deadline(self, stage: Retriever | Refine | Rerank | Feedback) -> Deadline:
        """When a stage that starts now must end."""
        remaining = self.deadline.remaining_s()
        return Deadline.after(allowance_s(remaining, share=stage.share, skippable=stage.may_run_out_of_time))
