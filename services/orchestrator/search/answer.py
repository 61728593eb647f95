"""The answer of a search, folded from the results of its stages. Immutable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sluice.common.v1.document_pb2 import Document

from services.core.ranking import Ranking
from services.orchestrator.downstream.vectors import Model
from services.orchestrator.pipelines.schema import Pipeline
from services.orchestrator.search.execution import StageReport, StageResult, Status

_EMPTY: Final = Ranking()
_COMPLETE: frozenset[Status] = frozenset({"ok", "left_out"})


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

    def cut(self, pipeline: Pipeline, top_k: int) -> "Answer":
        """Return the answer with the best `top_k` documents, up to the cut-off of the pipeline.

        The cut-off reads the scores of the last stage, so it applies only if that stage did all its work.
        """
        cut_off, last, ranking = pipeline.cut_off, self.reports[-1], self.ranking
        if cut_off is not None and last.stage == pipeline.last_stage and last.status == "ok":
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
