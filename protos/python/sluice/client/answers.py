"""Responses of the search service as plain values, and their conversion from protos."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sluice.client.documents import Document, document_of
from sluice.common.v1.model_pb2 import ModelRef
from sluice.search.v1 import search_service_pb2 as pb


@dataclass(frozen=True)
class Standing:
    """Rank and score of a document in a stage."""

    stage: str
    """Name of the stage."""
    rank: int
    """Rank of the document; 1 is the best."""
    score: float
    """Score of the stage."""


@dataclass(frozen=True)
class Result:
    """A document in the results of a search."""

    document: Document
    """The document, with its metadata."""
    score: float
    """Score of the last stage that ran. Scores of different searches are not comparable."""
    standings: tuple[Standing, ...]
    """Rank and score in each stage that ranked the document."""
    parent_id: str = ""
    """For a chunk, the id of the document that it is part of; otherwise empty."""


@dataclass(frozen=True)
class StageReport:
    """Report on a stage of a search."""

    name: str
    """Name of the stage in the pipeline."""
    status: str
    """`ok`, `skipped` (failed), `partial` (ran out of time) or `left_out` (optional, and the collection has no field
    for the stage)."""
    given_count: int
    """Number of candidates before the stage."""
    kept_count: int
    """Number of candidates after the stage."""
    duration_s: float
    """Duration of the stage, in seconds."""
    reason: str
    """Reason of a status other than `ok`; otherwise empty."""
    truncated_count: int = 0
    """Number of texts that the model of the stage truncated because they exceed its limit: wordings of the query in
    `embed`; candidates in a reranker, and the query if it is truncated on its own."""
    dropped_token_count: int = 0
    """Number of tokens that were dropped from these texts together."""


@dataclass(frozen=True)
class SearchAnswer:
    """The results of a search, with reports on its stages."""

    results: tuple[Result, ...]
    """The documents, best first."""
    degraded: bool
    """Whether a stage was skipped or ran out of time."""
    coverage: float
    """Share of the planned work that was done, from 0 to 1."""
    stages: tuple[StageReport, ...]
    """Reports on the stages, in the order in which they ran."""
    pipeline: str
    """Name of the pipeline that ran."""
    collection_version: int
    """Version of the collection that was searched."""
    models: tuple[str, ...]
    """The models that were used, as name@version."""
    duration_s: float
    """Duration of the search in the server, in seconds."""


@dataclass(frozen=True)
class Acknowledgement:
    """The outcome of indexing a document."""

    document_id: str
    """Id of the document."""
    outcome: str
    """`indexed`, `unchanged` (an equal document was stored already) or `failed`."""
    reason: str = ""
    """For a failure, the name of the ErrorReason."""
    message: str = ""
    """For a failure, what was expected and what was given."""
    dropped_token_count: int = 0
    """Number of tokens at the end of the document that the model did not read, because the document exceeds its limit.
    0 for a document that is not `indexed`."""


@dataclass(frozen=True)
class Stage:
    """A stage of a pipeline."""

    name: str
    """Name of the stage."""
    kind: str
    """`retrieve`, `fuse`, `refine`, `rerank` or `feedback`."""
    depth: int
    """Most candidates that the stage returns."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of the server."""

    name: str
    """Name of the pipeline."""
    description: str
    """What the pipeline is for, in one sentence."""
    stages: tuple[Stage, ...]
    """The stages, in order."""
    state: str = "unchecked"
    """Whether the pipeline works with the served models: `usable`, `degraded` (only some optional stages do not work),
    `unusable`, or `unchecked` (the models are not known)."""
    problems: tuple[str, ...] = ()
    """What the pipeline lacks, in one sentence each."""


def search_answer(response: pb.SearchResponse) -> SearchAnswer:
    """Return the results in a response."""
    return SearchAnswer(
        results=tuple(_result(result) for result in response.results),
        degraded=response.degraded,
        coverage=response.coverage,
        stages=tuple(_stage_report(stage) for stage in response.stages),
        pipeline=response.pipeline,
        collection_version=response.collection_version,
        models=tuple(model_name(model) for model in response.models),
        duration_s=response.duration.ToNanoseconds() / 1e9,
    )


def acknowledgement(proto: pb.Acknowledgement) -> Acknowledgement:
    """Return the acknowledgement in a proto."""
    outcome = enum_word(pb.Acknowledgement.Outcome.Name, proto.outcome, "OUTCOME_")
    return Acknowledgement(proto.document_id, outcome, proto.reason, proto.message, proto.dropped_token_count)


def pipelines(response: pb.ListPipelinesResponse) -> list[Pipeline]:
    """Return the pipelines in a response, by name."""
    return [
        Pipeline(
            p.name,
            p.description,
            tuple(Stage(s.name, s.kind, s.depth) for s in p.stages),
            enum_word(pb.Pipeline.State.Name, p.state, "STATE_"),
            tuple(p.problems),
        )
        for p in response.pipelines
    ]


def model_name(model: ModelRef) -> str:
    """Return `name@version`."""
    return f"{model.name}@{model.version}"


def enum_word(name: Callable[[Any], str], value: int, prefix: str) -> str:
    """Return the word of an enum value: `ok` for `STATUS_OK`, and `unknown` for a value of a newer server."""
    try:
        return name(value).removeprefix(prefix).lower()
    except ValueError:
        return "unknown"


def _result(proto: pb.Result) -> Result:
    standings = tuple(Standing(s.stage, s.rank, s.score) for s in proto.standings)
    return Result(document_of(proto.document), proto.score, standings, proto.parent_id)


def _stage_report(proto: pb.StageReport) -> StageReport:
    return StageReport(
        name=proto.stage,
        status=enum_word(pb.StageReport.Status.Name, proto.status, "STATUS_"),
        given_count=proto.given_count,
        kept_count=proto.kept_count,
        duration_s=proto.duration.ToNanoseconds() / 1e9,
        reason=proto.reason,
        truncated_count=proto.truncated_count,
        dropped_token_count=proto.dropped_token_count,
    )
