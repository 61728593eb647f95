"""Translates between the messages of the search API and the values of the orchestrator."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration
from sluice.common.v1.filter_pb2 import Filter
from sluice.common.v1.model_pb2 import WINDOW_AGGREGATION_MEAN, WindowAggregation
from sluice.search.v1 import search_service_pb2 as pb

from services.orchestrator.chunks import FIELDS as CHUNK_FIELDS
from services.orchestrator.chunks import Chunking, parent_of
from services.orchestrator.downstream.schemas import METADATA_TYPES, Windows
from services.orchestrator.indexing.messages import Acknowledgement, Message, Outcome, StreamHeader
from services.orchestrator.pipelines.schema import FUSE, Pipeline
from services.orchestrator.pipelines.validation import Check, State
from services.orchestrator.search.answer import Answer
from services.orchestrator.search.execution import Query, StageReport, Status
from services.rpc.validation import Violations, validating

DEFAULT_TOP_K: Final = 10
# With `query` 8 wordings: half of the limit of one Retrieve call.
_MAX_MORE_QUERIES: Final = 7
_MAX_DELETED_IDS: Final = 1024
_MAX_FILTERABLE_FIELDS: Final = 64
_MIN_CHUNK: Final = 16
_MAX_CHUNK: Final = 8192
_COLLECTION: Final = re.compile(r"[a-z][a-z0-9_-]{0,127}")

_STATUSES: Final[Mapping[Status, pb.StageReport.Status.ValueType]] = {
    "ok": pb.StageReport.STATUS_OK,
    "skipped": pb.StageReport.STATUS_SKIPPED,
    "partial": pb.StageReport.STATUS_PARTIAL,
    "left_out": pb.StageReport.STATUS_LEFT_OUT,
}
_STATES: Final[Mapping[State, pb.Pipeline.State.ValueType]] = {
    "unchecked": pb.Pipeline.STATE_UNCHECKED,
    "usable": pb.Pipeline.STATE_USABLE,
    "degraded": pb.Pipeline.STATE_DEGRADED,
    "unusable": pb.Pipeline.STATE_UNUSABLE,
}
_OUTCOMES: Final[Mapping[Outcome, pb.Acknowledgement.Outcome.ValueType]] = {
    "indexed": pb.Acknowledgement.OUTCOME_INDEXED,
    "unchanged": pb.Acknowledgement.OUTCOME_UNCHANGED,
    "failed": pb.Acknowledgement.OUTCOME_FAILED,
}


def query_of(request: pb.SearchRequest, pipeline: Pipeline, *, max_query_bytes: int) -> Query:
    """Return the query of a search request. Raises InvalidRequest."""
    top_k = request.top_k or min(DEFAULT_TOP_K, pipeline.max_top_k)
    with validating() as violations:
        _check_collection(violations, request.collection)
        violations.text("query", request.query, max_bytes=max_query_bytes)
        violations.count("more_queries", len(request.more_queries), low=0, high=_MAX_MORE_QUERIES, what="wordings")
        for index, text in enumerate(request.more_queries[:_MAX_MORE_QUERIES]):
            violations.text(f"more_queries[{index}]", text, max_bytes=max_query_bytes)
        violations.count("top_k", top_k, low=1, high=pipeline.max_top_k, what="results of this pipeline")
    return Query(
        request.collection,
        request.query,
        top_k,
        _filter_of(request),
        tuple(request.more_queries),
        request.group_by_parent,
    )


def response_of(name: str, answer: Answer, duration_s: float) -> pb.SearchResponse:
    """Return the response of a search."""
    standings = _standings(answer)
    results = [
        pb.Result(
            document=answer.documents[id_],
            score=score,
            standings=standings[id_],
            parent_id=parent_of(id_) if answer.is_chunked else "",
        )
        for id_, score in answer.ranking.items()
    ]
    return pb.SearchResponse(
        results=results,
        degraded=answer.degraded,
        coverage=answer.coverage,
        stages=[_report(report) for report in answer.reports],
        pipeline=name,
        collection_version=answer.collection_version,
        models=answer.models,
        duration=_duration(duration_s),
    )


async def messages_of(
    requests: AsyncIterator[pb.IndexRequest], *, max_message_documents: int
) -> AsyncIterator[Message]:
    """Yield the messages of an index stream. Raises InvalidRequest for an invalid one."""
    is_first = True
    async for request in requests:
        header = _header(request) if is_first else None
        with validating() as violations:
            violations.count("documents", len(request.documents), low=0, high=max_message_documents, what="documents")
            if request.collection and not is_first:
                violations.add("collection", "expected none after the first message, got one")
        yield Message(header, request.documents)
        is_first = False


def index_response(acknowledgements: Sequence[Acknowledgement]) -> pb.IndexResponse:
    """Return the response with these acknowledgements."""
    return pb.IndexResponse(
        acknowledgements=[
            pb.Acknowledgement(
                document_id=item.document_id,
                outcome=_OUTCOMES[item.outcome],
                reason=item.reason,
                message=item.message,
                dropped_token_count=item.dropped_tokens,
            )
            for item in acknowledgements
        ]
    )


def check_delete(request: pb.DeleteRequest) -> Filter | None:
    """Return the filter of a delete request; None if it has ids instead. Raises InvalidRequest."""
    ids = request.document_ids
    only = _filter_of(request)
    with validating() as violations:
        _check_collection(violations, request.collection)
        if bool(ids) == (only is not None):
            violations.add("document_ids", f"expected ids or a filter, got {'both' if ids else 'none'}")
        violations.limit("document_ids", len(ids), low=0, high=_MAX_DELETED_IDS, what="ids")
    return only


def pipeline_of(name: str, pipeline: Pipeline, check: Check) -> pb.Pipeline:
    """Return a pipeline as ListPipelines returns it."""
    stages = [pb.Stage(name=stage.name, kind="retrieve", depth=stage.depth) for stage in pipeline.retrieve]
    if pipeline.fuse:
        stages.append(pb.Stage(name=FUSE, kind="fuse", depth=pipeline.fuse.depth))
    if pipeline.refine:
        stages.append(pb.Stage(name=pipeline.refine.name, kind="refine", depth=pipeline.refine.depth))
    stages += [pb.Stage(name=stage.name, kind="rerank", depth=stage.depth) for stage in pipeline.rerank]
    if pipeline.feedback:
        stages.append(pb.Stage(name=pipeline.feedback.name, kind="feedback", depth=pipeline.feedback.depth))
    return pb.Pipeline(
        name=name,
        description=pipeline.description,
        stages=stages,
        state=_STATES[check.state],
        problems=check.problems,
    )


def _header(request: pb.IndexRequest) -> StreamHeader:
    fields = request.filterable_fields
    with validating() as violations:
        _check_collection(violations, request.collection)
        violations.limit("filterable_fields", len(fields), low=0, high=_MAX_FILTERABLE_FIELDS, what="fields")
        for index, field in enumerate(fields):
            if field.type not in METADATA_TYPES:
                expected = ", ".join(METADATA_TYPES)
                violations.add(f"filterable_fields[{index}].type", f"expected {expected}, got {field.type!r}")
        if len({field.name for field in fields}) < len(fields):
            violations.add("filterable_fields", "expected unique names, got one twice")
        chunking = _chunking(request, violations) if request.HasField("chunking") else None
        windows = _windows(request.windows, violations) if request.HasField("windows") else None
    types = {field.name: field.type for field in fields}
    return StreamHeader(request.collection, request.create_collection, types, chunking, windows)


def _chunking(request: pb.IndexRequest, violations: Violations) -> Chunking:
    tokens, overlap = request.chunking.token_count, request.chunking.overlap_token_count
    violations.count("chunking.token_count", tokens, low=_MIN_CHUNK, high=_MAX_CHUNK, what="tokens")
    most = max(tokens, _MIN_CHUNK) // 2
    violations.count("chunking.overlap_token_count", overlap, low=0, high=most, what="tokens, half of a chunk")
    for index, field in enumerate(request.filterable_fields):
        if field.name in CHUNK_FIELDS:
            violations.add(f"filterable_fields[{index}].name", f"expected another name, got {field.name!r} of chunks")
    return Chunking(tokens, overlap)


def _windows(given: Windows, violations: Violations) -> Windows:
    """Return windows with their aggregation named. The embedding service checks that the overlap fits the model."""
    overlap, aggregation = given.overlap_token_count, given.aggregation or WINDOW_AGGREGATION_MEAN
    violations.count("windows.overlap_token_count", overlap, low=0, high=_MAX_CHUNK // 2, what="tokens")
    if aggregation not in WindowAggregation.values():
        violations.add("windows.aggregation", f"expected MEAN or MAX, got number {aggregation}")
    return Windows(overlap_token_count=overlap, aggregation=aggregation)


def _check_collection(violations: Violations, name: str) -> None:
    if not _COLLECTION.fullmatch(name):
        expected = "1 to 128 of a-z, 0-9, _ and -, starting with a letter"
        violations.add("collection", f"expected {expected}, got {name!r:.140}")


def _filter_of(request: pb.SearchRequest | pb.DeleteRequest) -> Filter | None:
    return request.filter if request.HasField("filter") else None


def _standings(answer: Answer) -> dict[str, list[pb.Standing]]:
    """Return the rank and score of each result in each ranking that contains it."""
    standings: dict[str, list[pb.Standing]] = {id_: [] for id_ in answer.ranking.ids}
    for stage, ranking in answer.rankings:
        for rank, (id_, score) in enumerate(ranking.items(), start=1):
            if id_ in standings:
                standings[id_].append(pb.Standing(stage=stage, rank=rank, score=score))
    return standings


def _report(report: StageReport) -> pb.StageReport:
    error = report.error
    return pb.StageReport(
        stage=report.stage,
        status=_STATUSES[report.status],
        given_count=report.given,
        kept_count=report.kept,
        scored_count=report.scored,
        duration=_duration(report.duration_s),
        reason=f"{error.reason_name}: {error.message}" if error else "",
        truncated_count=report.truncation.texts,
        dropped_token_count=report.truncation.tokens,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
