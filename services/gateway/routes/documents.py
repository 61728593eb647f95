"""Indexing of documents from JSON or a stream of JSON lines, with progress as server-sent events.

| event | data |
|---|---|
| `progress` | the counts of `done` so far, at most four times a second |
| `done` | the fields of `IndexResponse`: counts, and the first 100 failures |
| `error` | the error that ended the stream, and the counts. The client sends again what was not acknowledged |

Without `Accept: text/event-stream`, the response is the data of `done`.
"""

from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from sluice.client.documents import unfit
from sluice.errors import NotFound, SluiceError
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.http.errors import SLUICE
from services.gateway.http.jsonl import documents_from_json, documents_from_lines
from services.gateway.http.memory_budget import StreamMemory
from services.gateway.http.models import ERRORS, ResponseBody, described
from services.gateway.http.responses import json_bytes, json_response
from services.gateway.routes.collections import metadata_type
from services.gateway.upstream.caller import Called, Caller
from services.gateway.upstream.indexing import IndexProgress, IndexTarget, index

router = APIRouter(tags=["Sluice"], responses=ERRORS)

_LINE_TYPES: Final = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/jsonlines")
_LINE_FRACTION: Final = 16
_PROGRESS_S: Final = 0.25
_EVENTS: Final = "text/event-stream"


class Events(Response):
    """Server-sent events. Unlike Starlette's StreamingResponse, it does not read from the request."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"content-type": _EVENTS, "cache-control": "no-store"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send each event as soon as there is one."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class DocumentFailure(ResponseBody):
    """A document that was rejected, or a line that is not a document."""

    reason: str
    """Name of the error reason."""
    message: str
    """What was expected, and what was given."""
    document_id: str
    """Id of the document; empty if the line is not a document."""
    line: int
    """Number of the line or element, from 1, if it is not a document; otherwise 0."""


class IndexResponse(ResponseBody):
    """The result of indexing."""

    indexed: int
    """Number of documents that were indexed."""
    unchanged: int
    """Number of documents that were stored already, with the same content."""
    failed: int
    """Number of documents that failed."""
    truncated: int
    """Number of indexed documents that are longer than the model reads. Their last tokens were not embedded."""
    dropped_tokens: int
    """Number of tokens of these documents that were not embedded."""
    failures: list[DocumentFailure]
    """The first 100 failures."""


@router.post(
    "/documents",
    openapi_extra={"requestBody": {"content": {_LINE_TYPES[0]: {}, "application/json": {}}}},
    responses=described(IndexResponse, f"The result. With `Accept: {_EVENTS}`, server-sent events."),
)
async def add(
    request: Request,
    caller: Called,
    collection: Annotated[str, Query(description="Name of the collection.")] = "docs",
    create: Annotated[bool, Query(description="Create the collection if it does not exist.")] = False,
    filterable: Annotated[
        list[str] | None,
        Query(description="With `create`: a metadata field for filters, as NAME=TYPE. Repeat it for several fields."),
    ] = None,
) -> Response:
    """Index documents.

    The body is JSON lines (`application/jsonl`), a JSON list, or `{"documents": [...]}`. Each document is
    `{"id": ..., "title": ..., "text": ..., "metadata": {...}}`.
    """
    fields = _fields(filterable or [])
    timestamps = await _timestamps(caller, collection, fields, create=create)
    settings = caller.upstream.settings
    memory = StreamMemory(request.state.body_share)
    is_lines = request.headers.get("content-type", "").partition(";")[0].strip().lower() in _LINE_TYPES
    read, part = (documents_from_lines, _LINE_FRACTION) if is_lines else (documents_from_json, 1)
    limits = {"max_bytes": settings.max_body_bytes // part, "max_values": settings.max_body_values // part}
    source = read(request.receive, timestamps, memory, **limits)
    progress = IndexProgress()
    steps = index(caller, IndexTarget(collection, create, fields), source, memory, progress)
    if _EVENTS in request.headers.get("accept", ""):
        # Errors before the first document, such as an unknown collection, still get a status of their own.
        await anext(steps)
        return Events(_events(steps, progress))
    try:
        async for _ in steps:
            pass
    except SluiceError as error:
        error.metadata.update({name: str(count) for name, count in progress.counts().items()})
        raise
    return json_response(_summary(progress))


async def _events(steps: AsyncIterator[None], progress: IndexProgress) -> AsyncIterator[bytes]:
    yield _event("progress", progress.counts())
    reported = monotonic()
    try:
        async for _ in steps:
            if monotonic() - reported > _PROGRESS_S:
                reported = monotonic()
                yield _event("progress", progress.counts())
    except SluiceError as error:
        yield _event("error", SLUICE.body(error, SLUICE.status(error)) | progress.counts())
    else:
        yield _event("done", _summary(progress))


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json_bytes(data) + b"\n\n"


def _summary(progress: IndexProgress) -> dict[str, Any]:
    return {**progress.counts(), "failures": progress.failures}


def _fields(filterable: list[str]) -> dict[str, str]:
    """Return `["year=number"]` as a dict. Raises InvalidRequest. The orchestrator checks the types."""
    fields = {}
    for position, item in enumerate(filterable):
        name, equals, kind = item.partition("=")
        if not (name and equals and kind):
            raise unfit(f"filterable[{position}]", f"expected NAME=TYPE, got {item!r:.80}")
        fields[name] = kind
    return fields


async def _timestamps(caller: Caller, collection: str, fields: dict[str, str], *, create: bool) -> frozenset[str]:
    """Return the metadata fields that are timestamps, which JSON gives as text. Raises NotFound."""
    given = {name for name, kind in fields.items() if kind == "timestamp"}
    try:
        found = await caller.call(caller.upstream.retrieval.GetCollection, pb.GetCollectionRequest(name=collection))
    except NotFound:
        if not create:
            raise
        return frozenset(given)
    stored = {one.name for one in found.collection.schema.metadata_fields if metadata_type(one.type) == "timestamp"}
    return frozenset(given | stored)
