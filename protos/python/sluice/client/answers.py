"""What the search service answers, as plain values, and how they are read from protos."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sluice.client.documents import Document, document_of
from sluice.common.v1.model_pb2 import ModelRef
from sluice.search.v1 import search_service_pb2 as pb


@dataclass(frozen=True)
class Standing:
    """Where a document stood after one stage."""

    stage: str
    """Name of the stage."""
    rank: int
    """1 is best."""
    score: float
    """The stage's own score."""


@dataclass(frozen=True)
class Result:
    """One found document."""

    document: Document
    """The document, with its metadata."""
    score: float
    """Score of the last stage that ran. Scores of different searches do not compare."""
    standings: tuple[Standing, ...]
    """Where it stood in each ranking that had it."""
    parent_id: str = ""
    """Id of the document that it is a chunk of; empty for whole documents."""


@dataclass(frozen=True)
class StageReport:
    """What one stage of a search did."""

    name: str
    """Its name in the pipeline."""
    status: str
    """`ok`, `skipped` (failed), `partial` (ran out of time) or `left_out` (the collection has no field for it, and the
    pipeline calls it optional)."""
    given_count: int
    """Candidates given to it."""
    kept_count: int
    """Candidates it kept."""
    duration_s: float
    """Time it took, in seconds."""
    reason: str
    """Why it was not `ok`."""


@dataclass(frozen=True)
class SearchAnswer:
    """The answer to a search, and how it came about."""

    results: tuple[Result, ...]
    """Best first."""
    degraded: bool
    """True when a stage was skipped or cut short."""
    coverage: float
    """How much of the planned work is behind the answer, 0 to 1; 1 for a full answer."""
    stages: tuple[StageReport, ...]
    """What each stage did, in the order they ran."""
    pipeline: str
    """Name of the pipeline that ran."""
    collection_version: int
    """Version of the collection that was searched."""
    models: tuple[str, ...]
    """The models that answered, as name@version."""
    duration_s: float
    """Time in the server, in seconds."""


@dataclass(frozen=True)
class Acknowledgement:
    """What happened to one document."""

    document_id: str
    """Its id."""
    outcome: str
    """`indexed`, `unchanged` (an equal one was there) or `failed`."""
    reason: str = ""
    """Why it failed: the name of an ErrorReason."""
    message: str = ""
    """What was wrong, expected and given, when it failed."""


@dataclass(frozen=True)
class Stage:
    """A stage of a pipeline."""

    name: str
    """Its name."""
    kind: str
    """`retrieve`, `fuse`, `refine`, `rerank` or `feedback`."""
    depth: int
    """Candidates it keeps."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline, as configured in the server."""

    name: str
    """Its name."""
    description: str
    """One sentence for people."""
    stages: tuple[Stage, ...]
    """Its stages in order."""
    state: str = "unchecked"
    """Whether it can work with the models that are served: `usable`, `degraded` (stages that may be skipped cannot),
    `unusable`, or `unchecked` when they are not known."""
    problems: tuple[str, ...] = ()
    """What it lacks, a sentence each."""


def search_answer(response: pb.SearchResponse) -> SearchAnswer:
    """The answer in a response."""
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
    """The acknowledgement in a proto."""
    outcome = enum_word(pb.Acknowledgement.Outcome.Name, proto.outcome, "OUTCOME_")
    return Acknowledgement(proto.document_id, outcome, proto.reason, proto.message)


def pipelines(response: pb.ListPipelinesResponse) -> list[Pipeline]:
    """The pipelines in a response, by name."""
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
    """`name@version`."""
    return f"{model.name}@{model.version}"


def enum_word(name: Callable[[Any], str], value: int, prefix: str) -> str:
    """An enum value for people: `STATUS_OK` is `ok`; one that only a newer server knows is `unknown`."""
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
    )
