"""The schema of a pipelines file, and what its values mean.

NAME:
description: one sentence
retrieve: [Retriever, ...]        one or several retrievers, run side by side
fuse: Rrf | WeightedSum           joins their candidates; required if there are several retrievers, and only then
refine: Refine                    rescores the best candidates by their stored token vectors
rerank: [Rerank, ...]             rescores the best candidates, one reranker after another
feedback: Feedback                retrieves once more, closer to the best documents of the last reranker
cut_off: CutOff                   ends the results early
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sluice.errors import DeadlineExpired, SluiceError

from services.core.fusion import RRF_CONSTANT, Normalization, rrf, weighted_sum
from services.core.ranking import Ranking
from services.orchestrator.downstream.vectors import FieldKind

DEFAULT_NAME: Final = "default"
PACKAGED: Final = Path(__file__).with_name("default.yaml")
EMBED: Final = "embed"
FUSE: Final = "fuse"
_RESCORING: Final = ("refine", "rerank")

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Depth = Annotated[int, Field(ge=1, le=1000)]
OnError = Literal["fail", "skip"]
Location = tuple[int | str, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Stage(_Part):
    name: Name
    """Name in reports and metrics; unique in the pipeline."""
    depth: Depth
    """Most candidates that the stage returns."""
    share: float = Field(0.5, gt=0, le=1)
    """Share of the remaining time that the stage may use. A stage that must not run out of time gets all of it."""
    on_error: OnError
    """Whether the search fails if the stage fails."""
    on_timeout: OnError | None = None
    """Whether the search fails if the stage runs out of time. The default is the value of `on_error`."""

    @property
    def may_run_out_of_time(self) -> bool:
        """Whether the search continues if the stage runs out of time."""
        return (self.on_timeout or self.on_error) == "skip"

    def forgives(self, error: SluiceError) -> bool:
        """Return whether the search continues after this error of the stage."""
        return self.may_run_out_of_time if isinstance(error, DeadlineExpired) else self.on_error == "skip"


class Retriever(_Stage):
    """A stage that finds candidates in the whole collection."""

    kind: FieldKind
    """What it compares: the words of the query by BM25 (`text`), or its dense, sparse or token vectors."""
    field: str = Field("", max_length=64)
    """Field of the collection; may be empty if the collection has one field of the kind."""
    model: str = Field("", max_length=128)
    """Embedding model; may be empty if the field or the server determines it. Not allowed for `text`."""
    on_error: OnError = "fail"
    """Whether the search fails if the retriever fails. `skip` requires another retriever."""
    optional: bool = False
    """Leave the stage out if the collection has no such field; the answer does not count as degraded. `true` requires
    another retriever."""


class Rrf(_Part):
    """Reciprocal rank fusion."""

    method: Literal["rrf"]
    """The fusion method."""
    constant: float = Field(RRF_CONSTANT, ge=0, le=10_000)
    """A higher constant gives low ranks more weight."""
    depth: Depth
    """Most candidates that the fusion returns."""

    def fuse(self, rankings: Mapping[str, Ranking]) -> Ranking:
        """Return all candidates as one ranking.

        rankings  of the retrievers, by their names
        """
        return rrf(list(rankings.values()), constant=self.constant)


class WeightedSum(_Part):
    """Weighted sum of normalized scores."""

    method: Literal["weighted_sum"]
    """The fusion method."""
    normalisation: Normalization
    """How scores are brought to one scale."""
    weights: dict[Name, Annotated[float, Field(ge=0, le=1000)]]
    """Weight of each retriever, by its name."""
    depth: Depth
    """Most candidates that the fusion returns."""

    def fuse(self, rankings: Mapping[str, Ranking]) -> Ranking:
        """Return all candidates as one ranking.

        rankings  of the retrievers, by their names
        """
        weights = [self.weights[name] for name in rankings]
        return weighted_sum(list(rankings.values()), weights, self.normalisation)


class Interpolation(_Part):
    """A weighted sum of a stage's scores and those of the previous stage."""

    weight: float = Field(gt=0, le=1)
    """Weight of the stage; the previous stage has the rest."""
    normalisation: Normalization
    """How both are brought to one scale."""


class Refine(_Stage):
    """A stage that scores candidates by MaxSim of the query's token vectors with their stored token vectors."""

    field: str = Field("", max_length=64)
    """Multi-vector field of the collection; may be empty if the collection has one."""
    model: str = Field("", max_length=128)
    """Embedding model; may be empty if the field or the server determines it."""
    on_error: OnError = "skip"
    """Whether the search fails if the stage fails, or continues with the previous order."""
    optional: bool = False
    """Leave the stage out if the collection has no such field; the answer does not count as degraded."""
    interpolate: Interpolation | None = None
    """Mix the stage's scores with the previous ones. Without it, the stage's scores replace them."""


class CandidateWindows(_Part):
    """The windows in which a reranker reads candidates that are longer than its limit.

    A candidate has the score of its best window. The query is not split.
    """

    overlap: int = Field(0, ge=0, le=4096)
    """Tokens that a window shares with the previous one: at most half of those that a window holds."""


class Rerank(_Stage):
    """A stage that scores the texts of candidates against the query by a reranker, the best candidates first."""

    model: str = Field("", max_length=128)
    """Reranking model; may be empty if the server has one."""
    slice: int = Field(16, ge=1, le=1000)
    """Candidates in one call. Small slices waste less work when time runs out; large slices need fewer calls."""
    windows: CandidateWindows | None = None
    """Read candidates over the model's limit in windows. Without it, the model truncates them."""
    on_error: OnError = "skip"
    """Whether the search fails if the stage fails, or continues with the previous order."""
    interpolate: Interpolation | None = None
    """Mix the stage's scores with the previous ones. Without it, the stage's scores replace them."""


class Feedback(_Stage):
    """Relevance feedback: a second retrieval, closer to the best documents of the last reranker.

    query' = query + weight * sum over the best documents of share_i * vector_i, where share_i is the document's part of
    their scores, normalized by min_max over all documents that the reranker scored. Vectors of a cosine field have unit
    length.
    Source: Rocchio, Relevance Feedback in Information Retrieval, 1971, without the negative part.
    """

    retriever: Name
    """The dense retriever that searches again."""
    documents: int = Field(5, ge=1, le=64)
    """Number of best documents that move the query."""
    weight: float = Field(0.5, gt=0, le=10)
    """How far they move it."""
    on_error: OnError = "skip"
    """Whether the search fails if the stage fails, or continues with the previous order."""


class CutOff(_Part):
    """The end of the results where the rest is not good.

    It reads the scores of the last stage. If that stage did not do all its work, all results are returned.
    Interpolated and fused scores are relative to one answer, so use `max_drop` for them. `min_score` is for the scores
    of a model.
    """

    min_score: float | None = None
    """Results with a lower score are dropped."""
    max_drop: float | None = Field(None, gt=0)
    """Results end where a score is lower than the previous one by more than this."""


class Pipeline(_Part):
    """One way to search."""

    description: str = Field(min_length=1, max_length=500)
    """One sentence for people."""
    retrieve: tuple[Retriever, ...] = Field(min_length=1, max_length=8)
    """Retrievers, run side by side."""
    fuse: Annotated[Rrf | WeightedSum, Field(discriminator="method")] | None = None
    """How the candidates of several retrievers are joined."""
    refine: Refine | None = None
    """Late interaction with stored token vectors, before any reranker."""
    rerank: tuple[Rerank, ...] = Field((), max_length=4)
    """Rerankers, in their order."""
    feedback: Feedback | None = None
    """A second retrieval after the last reranker."""
    cut_off: CutOff | None = None
    """Where the results end before `top_k`."""

    @property
    def rescoring(self) -> tuple[Refine | Rerank, ...]:
        """The stages that order candidates anew, in their order."""
        return (self.refine, *self.rerank) if self.refine else self.rerank

    @property
    def max_top_k(self) -> int:
        """Most results of a search: the depth of the last stage."""
        if self.rescoring:
            return self.rescoring[-1].depth
        return self.fuse.depth if self.fuse else self.retrieve[0].depth

    @property
    def last_stage(self) -> str:
        """Name of the stage whose scores the results have if nothing fails."""
        if self.feedback:
            return self.feedback.name
        if self.rescoring:
            return self.rescoring[-1].name
        return FUSE if self.fuse else self.retrieve[0].name

    def problems(self) -> Iterator[tuple[Location, str]]:
        """Yield the location and the text of each contradiction in the pipeline."""
        yield from self._name_problems()
        yield from self._model_problems()
        yield from self._fusion_problems()
        yield from self._error_problems()
        yield from self._depth_problems()
        yield from self._feedback_problems()

    def _stages(self) -> Iterator[tuple[Location, Retriever | Refine | Rerank | Feedback]]:
        """Yield the stages that have names, with their locations."""
        for index, retriever in enumerate(self.retrieve):
            yield ("retrieve", index), retriever
        if self.refine:
            yield ("refine",), self.refine
        for index, reranker in enumerate(self.rerank):
            yield ("rerank", index), reranker
        if self.feedback:
            yield ("feedback",), self.feedback

    def _name_problems(self) -> Iterator[tuple[Location, str]]:
        seen = {EMBED, FUSE}
        for location, stage in self._stages():
            if stage.name in seen:
                yield (*location, "name"), f"expected a name of its own, got {stage.name!r}, which is taken"
            seen.add(stage.name)

    def _model_problems(self) -> Iterator[tuple[Location, str]]:
        for index, retriever in enumerate(self.retrieve):
            if retriever.kind == "text" and retriever.model:
                yield ("retrieve", index, "model"), f"expected no model for kind text, got {retriever.model!r}"

    def _fusion_problems(self) -> Iterator[tuple[Location, str]]:
        if (self.fuse is not None) != (len(self.retrieve) > 1):
            given = "none" if self.fuse is None else "one"
            yield (
                ("fuse",),
                f"expected a fusion if and only if there are several retrievers, got {given} for {len(self.retrieve)}",
            )
        if isinstance(self.fuse, WeightedSum):
            names = {retriever.name for retriever in self.retrieve}
            if set(self.fuse.weights) != names:
                given = ", ".join(sorted(self.fuse.weights)) or "none"
                yield ("fuse", "weights"), f"expected a weight for each of {', '.join(sorted(names))}, got {given}"

    def _error_problems(self) -> Iterator[tuple[Location, str]]:
        only = self.retrieve[0]
        for key, given in (("on_error", only.on_error), ("on_timeout", only.on_timeout)):
            if len(self.retrieve) == 1 and given == "skip":
                yield ("retrieve", 0, key), "expected fail for the only retriever, got skip"
        if len(self.retrieve) == 1 and only.optional:
            yield ("retrieve", 0, "optional"), "expected false for the only retriever, got true"
        for location, stage in self._stages():
            if not stage.may_run_out_of_time and "share" in stage.model_fields_set:
                key = "on_timeout" if stage.on_timeout else "on_error"
                yield (*location, "share"), f"expected none with {key}: fail, which gets all the remaining time"

    def _depth_problems(self) -> Iterator[tuple[Location, str]]:
        before = sum(retriever.depth for retriever in self.retrieve)
        steps: list[tuple[Location, int]] = [(("fuse", "depth"), self.fuse.depth)] if self.fuse else []
        steps += [((*where, "depth"), stage.depth) for where, stage in self._stages() if where[0] in _RESCORING]
        for location, depth in steps:
            if depth > before:
                yield location, f"expected at most {before}, the depth of the previous stage, got {depth}"
            before = min(before, depth)

    def _feedback_problems(self) -> Iterator[tuple[Location, str]]:
        if self.feedback is None:
            return
        if not self.rerank:
            yield ("feedback",), "expected a reranker, whose scores move the query, got none"
        dense = [retriever.name for retriever in self.retrieve if retriever.kind == "dense"]
        if self.feedback.retriever not in dense:
            expected = ", ".join(dense) or "a dense retriever in the pipeline"
            yield ("feedback", "retriever"), f"expected {expected}, got {self.feedback.retriever!r}"
