"""Pipelines as data: what may be said in `pipelines.yaml`, and what it means.

NAME:
description: one sentence
retrieve: [Retriever, ...]        one or several retrievers, run side by side
fuse: Rrf | WeightedSum           joins them; there exactly when there are several
refine: Refine                    orders the best anew by vectors that the collection has stored
rerank: [Rerank, ...]             one after another; each narrows what the one before gave
feedback: Feedback                retrieves once more, nearer to what the last reranker liked
cut_off: CutOff                   ends the results early where the rest is not good
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sluice.errors import DeadlineExpired, SluiceError

from services.core.fusion import RRF_CONSTANT, Normalisation, rrf, weighted_sum
from services.core.ranking import Ranking
from services.orchestrator.downstream.vectors import FieldKind

DEFAULT_NAME: Final = "default"
PACKAGED: Final = Path(__file__).with_name("default.yaml")
EMBED: Final = "embed"
FUSE: Final = "fuse"
_NARROWING: Final = ("refine", "rerank")

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Depth = Annotated[int, Field(ge=1, le=1000)]
OnError = Literal["fail", "skip"]
Location = tuple[int | str, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Stage(_Part):
    name: Name
    """Its name in reports and metrics; unique in the pipeline."""
    depth: Depth
    """Candidates it gives at most."""
    share: float = Field(0.5, gt=0, le=1)
    """Part of the remaining time it may take. For stages that may run out of it: one that may not gets all there is."""
    on_error: OnError
    """Whether the search fails with it."""
    on_timeout: OnError | None = None
    """Whether the search fails when its time is over before its work is done; as `on_error` unless told."""

    @property
    def may_run_out_of_time(self) -> bool:
        """Whether the search goes on when its time is over."""
        return (self.on_timeout or self.on_error) == "skip"

    def forgives(self, error: SluiceError) -> bool:
        """Whether the search goes on after this error."""
        return self.may_run_out_of_time if isinstance(error, DeadlineExpired) else self.on_error == "skip"


class Retriever(_Stage):
    """Finds candidates in the whole collection."""

    kind: FieldKind
    """What it compares: the query's words by BM25 (`text`), or its vectors: one, weighted terms, or one a token."""
    field: str = Field("", max_length=64)
    """Field of the collection that it searches; empty when the collection has one of its kind."""
    model: str = Field("", max_length=128)
    """Embedding model; empty when the server has one. None for `text`."""
    on_error: OnError = "fail"
    """Whether the search fails with it. `skip` needs another retriever beside it."""
    optional: bool = False
    """Leave it out, and do not call the answer degraded, where the collection has no such field. `true` needs another
    retriever beside it."""


class Rrf(_Part):
    """Reciprocal rank fusion."""

    method: Literal["rrf"]
    """Which fusion this is."""
    constant: float = Field(RRF_CONSTANT, ge=0, le=10_000)
    """Higher trusts low ranks more."""
    depth: Depth
    """Candidates it keeps."""

    def fuse(self, rankings: Mapping[str, Ranking]) -> Ranking:
        """Return one ranking of all candidates from a ranking for each retriever, by its name."""
        return rrf(list(rankings.values()), constant=self.constant)


class WeightedSum(_Part):
    """Sum of weighted, normalised scores."""

    method: Literal["weighted_sum"]
    """Which fusion this is."""
    normalisation: Normalisation
    """How scores are brought to one scale."""
    weights: dict[Name, Annotated[float, Field(ge=0, le=1000)]]
    """Weight of each retriever by its name."""
    depth: Depth
    """Candidates it keeps."""

    def fuse(self, rankings: Mapping[str, Ranking]) -> Ranking:
        """Return one ranking of all candidates from a ranking for each retriever, by its name."""
        weights = [self.weights[name] for name in rankings]
        return weighted_sum(list(rankings.values()), weights, self.normalisation)


class Interpolation(_Part):
    """The reranker's score mixed with that of the stage before."""

    weight: float = Field(gt=0, le=1)
    """Weight of the reranker; the stage before has the rest."""
    normalisation: Normalisation
    """How both are brought to one scale."""


class Refine(_Stage):
    """Scores the candidates, and only those, by MaxSim of the query's token vectors with their stored ones."""

    field: str = Field("", max_length=64)
    """Multi-vector field of the collection; empty when the collection has one."""
    model: str = Field("", max_length=128)
    """Embedding model; empty when the server has one."""
    on_error: OnError = "skip"
    """Whether the search fails with it, or goes on with the order before it."""
    optional: bool = False
    """Leave it out, and do not call the answer degraded, where the collection has no such field."""
    interpolate: Interpolation | None = None
    """Mix its scores with those before; without, they replace them."""


class Rerank(_Stage):
    """A reranker: scores the candidates' texts against the query's, best candidates first, as long as there is time."""

    model: str = Field("", max_length=128)
    """Reranking model; empty when the server has one."""
    slice: int = Field(16, ge=1, le=1000)
    """Candidates in one call. Smaller ones waste less when time ends; larger ones cost fewer calls."""
    on_error: OnError = "skip"
    """Whether the search fails with it, or goes on with the order before it."""
    interpolate: Interpolation | None = None
    """Mix its scores with those before; without, they replace them."""


class Feedback(_Stage):
    """Relevance feedback: a second retrieval, nearer to what the last reranker liked, which scores what is new there.

    query' = query + weight * sum over the best documents of share_i * vector_i, where share_i is the document's part of
    their scores, normalised by min_max over all that the reranker scored. Of a cosine field all have unit length.
    Source: Rocchio, Relevance Feedback in Information Retrieval, 1971, without its negative part.
    """

    retriever: Name
    """The dense retriever that asks again."""
    documents: int = Field(5, ge=1, le=64)
    """How many of the best documents move the query."""
    weight: float = Field(0.5, gt=0, le=10)
    """How far."""
    on_error: OnError = "skip"
    """Whether the search fails with it, or goes on with the order before it."""


class CutOff(_Part):
    """Where results stop being worth showing. It reads the last stage's own scores: an answer without them is not cut.

    Interpolated and fused scores are relative to one answer: `max_drop` is for them, `min_score` for a model's own.
    """

    min_score: float | None = None
    """Results below it are left out."""
    max_drop: float | None = Field(None, gt=0)
    """Results end where a score is lower than the one before it by more than this."""


class Pipeline(_Part):
    """One way to search."""

    description: str = Field(min_length=1, max_length=500)
    """One sentence for people."""
    retrieve: tuple[Retriever, ...] = Field(min_length=1, max_length=8)
    """Retrievers, run side by side."""
    fuse: Annotated[Rrf | WeightedSum, Field(discriminator="method")] | None = None
    """How several retrievers are joined."""
    refine: Refine | None = None
    """Late interaction with stored vectors, before any reranker."""
    rerank: tuple[Rerank, ...] = Field((), max_length=4)
    """Rerankers in order."""
    feedback: Feedback | None = None
    """A second retrieval after the last reranker."""
    cut_off: CutOff | None = None
    """Fewer results than asked for, where the rest is not good."""

    @property
    def narrowing(self) -> tuple[Refine | Rerank, ...]:
        """The stages that order what was found anew, in order."""
        return (self.refine, *self.rerank) if self.refine else self.rerank

    @property
    def max_top_k(self) -> int:
        """Most results it can give: the depth of its last stage."""
        if self.narrowing:
            return self.narrowing[-1].depth
        return self.fuse.depth if self.fuse else self.retrieve[0].depth

    @property
    def last_stage(self) -> str:
        """Name of the stage whose scores the results have when nothing fails."""
        if self.feedback:
            return self.feedback.name
        if self.narrowing:
            return self.narrowing[-1].name
        return FUSE if self.fuse else self.retrieve[0].name

    def problems(self) -> Iterator[tuple[Location, str]]:
        """What makes no sense, where; nothing when all does."""
        yield from self._names()
        yield from self._models()
        yield from self._fusion()
        yield from self._errors()
        yield from self._depths()
        yield from self._feedback()

    def _stages(self) -> Iterator[tuple[Location, Retriever | Refine | Rerank | Feedback]]:
        """The stages with names, and where they are."""
        for index, retriever in enumerate(self.retrieve):
            yield ("retrieve", index), retriever
        if self.refine:
            yield ("refine",), self.refine
        for index, reranker in enumerate(self.rerank):
            yield ("rerank", index), reranker
        if self.feedback:
            yield ("feedback",), self.feedback

    def _names(self) -> Iterator[tuple[Location, str]]:
        seen = {EMBED, FUSE}
        for location, stage in self._stages():
            if stage.name in seen:
                yield (*location, "name"), f"expected a name of its own, got {stage.name!r}, which is taken"
            seen.add(stage.name)

    def _models(self) -> Iterator[tuple[Location, str]]:
        for index, retriever in enumerate(self.retrieve):
            if retriever.kind == "text" and retriever.model:
                yield ("retrieve", index, "model"), f"expected none for words, got {retriever.model!r}"

    def _fusion(self) -> Iterator[tuple[Location, str]]:
        if (self.fuse is not None) != (len(self.retrieve) > 1):
            given = "none" if self.fuse is None else "one"
            yield (
                ("fuse",),
                f"expected a fusion exactly when retrievers are several, got {given} for {len(self.retrieve)}",
            )
        if isinstance(self.fuse, WeightedSum):
            names = {retriever.name for retriever in self.retrieve}
            if set(self.fuse.weights) != names:
                given = ", ".join(sorted(self.fuse.weights)) or "none"
                yield ("fuse", "weights"), f"expected a weight for each of {', '.join(sorted(names))}, got {given}"

    def _errors(self) -> Iterator[tuple[Location, str]]:
        only = self.retrieve[0]
        for key, given in (("on_error", only.on_error), ("on_timeout", only.on_timeout)):
            if len(self.retrieve) == 1 and given == "skip":
                yield ("retrieve", 0, key), "expected fail for the only retriever, got skip"
        if len(self.retrieve) == 1 and only.optional:
            yield ("retrieve", 0, "optional"), "expected false for the only retriever, got true"
        for location, stage in self._stages():
            if not stage.may_run_out_of_time and "share" in stage.model_fields_set:
                key = "on_timeout" if stage.on_timeout else "on_error"
                yield (*location, "share"), f"expected none with {key}: fail, which gets all the time there is"

    def _depths(self) -> Iterator[tuple[Location, str]]:
        before = sum(retriever.depth for retriever in self.retrieve)
        steps: list[tuple[Location, int]] = [(("fuse", "depth"), self.fuse.depth)] if self.fuse else []
        steps += [((*where, "depth"), stage.depth) for where, stage in self._stages() if where[0] in _NARROWING]
        for location, depth in steps:
            if depth > before:
                yield location, f"expected at most {before}, what the stage before it gives, got {depth}"
            before = min(before, depth)

    def _feedback(self) -> Iterator[tuple[Location, str]]:
        if self.feedback is None:
            return
        if not self.rerank:
            yield ("feedback",), "expected a reranker, whose scores move the query, got none"
        dense = [retriever.name for retriever in self.retrieve if retriever.kind == "dense"]
        if self.feedback.retriever not in dense:
            expected = ", ".join(dense) or "a dense retriever, and there is none"
            yield ("feedback", "retriever"), f"expected {expected}, got {self.feedback.retriever!r}"
