"""A small real search service that rejects, breaks and answers as a test configures it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from sluice.common.v1.document_pb2 import Document
from sluice.errors import SluiceError, Unavailable
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceServicer, add_SearchServiceServicer_to_server

from tests.support.fake_services import running


@dataclass
class ScriptedSearch(SearchServiceServicer):
    """Answers `answer` once the rejections are used up, and indexes into memory."""

    answer: pb.SearchResponse = field(default_factory=pb.SearchResponse)
    refusals: list[SluiceError] = field(default_factory=list)
    """Raised by the next unary calls, first to last."""
    hangs: bool = False
    """Search never answers."""
    breaks: list[int] = field(default_factory=list)
    """Ends the next index streams as UNAVAILABLE, each after so many acknowledged documents."""
    broken: threading.Event = field(default_factory=threading.Event)
    """Set when an index stream was broken."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when an index stream ended in any way."""
    keeps_silent: bool = False
    """Index takes documents and acknowledges none."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of dropped tokens of documents, by id."""
    requests: list[Any] = field(default_factory=list)
    openings: list[pb.IndexRequest] = field(default_factory=list)
    message_sizes: list[int] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    most_unacknowledged: int = 0

    async def Search(self, request: Any, context: Any) -> Any:
        self.receive(request)
        if self.hangs:
            await asyncio.Event().wait()
        return self.answer

    async def Delete(self, request: Any, context: Any) -> Any:
        self.receive(request)
        gone = [self.documents.pop(id_, None) for id_ in request.document_ids]
        return pb.DeleteResponse(deleted_count=sum(document is not None for document in gone))

    async def ListPipelines(self, request: Any, context: Any) -> Any:
        self.receive(request)
        stages = [pb.Stage(name="dense", kind="retrieve", depth=50)]
        return pb.ListPipelinesResponse(pipelines=[pb.Pipeline(name="default", description="All.", stages=stages)])

    async def Index(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.IndexResponse]:
        try:
            async for response in self.indexed(request_iterator):
                yield response
        finally:
            self.ended.set()

    async def indexed(self, messages: Any) -> AsyncIterator[pb.IndexResponse]:
        """Acknowledge documents late and in reverse order within a message, like a busy server."""
        self.openings.append(await anext(messages))
        left = self.breaks.pop(0) if self.breaks else None
        held: list[list[Document]] = []
        async for message in messages:
            self.message_sizes.append(len(message.documents))
            held.append(list(message.documents))
            self.most_unacknowledged = max(self.most_unacknowledged, sum(map(len, held)))
            if len(held) < 2 and len(message.documents) == 64:
                continue
            while held and not self.keeps_silent:
                response = self.acknowledged(held.pop(0), left)
                yield response
                if left is not None and (left := left - len(response.acknowledgements)) <= 0:
                    self.broken.set()
                    raise Unavailable("broken by the script", retry_after_s=0.0)
        for documents in held:
            yield self.acknowledged(documents, None)

    def acknowledged(self, documents: list[Document], at_most: int | None) -> pb.IndexResponse:
        acknowledgements = []
        for document in reversed(documents[:at_most]):
            outcome = pb.Acknowledgement.OUTCOME_INDEXED
            if self.documents.get(document.document_id) == document:
                outcome = pb.Acknowledgement.OUTCOME_UNCHANGED
            self.documents[document.document_id] = document
            dropped = self.dropped.get(document.document_id, 0)
            acknowledgements.append(
                pb.Acknowledgement(document_id=document.document_id, outcome=outcome, dropped_token_count=dropped)
            )
        return pb.IndexResponse(acknowledgements=acknowledgements)

    def receive(self, request: Any) -> None:
        """Record a call, and raise the next rejection if there is one."""
        self.requests.append(request)
        if self.refusals:
            raise self.refusals.pop(0)

    def served(self) -> AbstractAsyncContextManager[str]:
        """Serve on a free port, and return the address."""
        return running(self, "sluice.search.v1.SearchService", add_SearchServiceServicer_to_server)


@asynccontextmanager
async def short_lived(servicer: ScriptedSearch, age_ms: int) -> AsyncIterator[str]:
    """Serve with connections that the server closes at this age."""
    server = grpc.aio.server(options=[("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", 1)])
    add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
