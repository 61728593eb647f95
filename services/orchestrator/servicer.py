"""The gRPC methods of the SearchService."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter
from typing import Any, Final

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import DeadlineExpired, NotFound, Unavailable
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceServicer

from services.orchestrator.chunks import first_of, is_chunked, of_parents
from services.orchestrator.concurrency_limit import AimdLimit
from services.orchestrator.discovery import ServiceDirectory
from services.orchestrator.downstream.services import Services
from services.orchestrator.indexing.stream import IndexStream
from services.orchestrator.metrics import SEARCH_LIMIT
from services.orchestrator.pipelines.schema import DEFAULT_NAME, Pipeline
from services.orchestrator.pipelines.validation import check
from services.orchestrator.pipelines.watcher import PipelineFile
from services.orchestrator.search.budget import reserve_s
from services.orchestrator.search.search import search
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.wire import check_delete, index_response, messages_of, pipeline_of, query_of, response_of
from services.rpc.deadline import Deadline

Context = grpc.aio.ServicerContext[Any, Any]

# Another replica may have capacity at once, so a rejected caller waits only briefly.
_RETRY_AFTER_S: Final = 0.05


class SearchServicer(SearchServiceServicer):
    """Searches, indexes and deletes.

    interactive, bulk  clients of the same services. They are separate, so that indexing neither uses the retry budget
                       of searches nor opens their circuit breakers.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        pipelines: PipelineFile,
        directory: ServiceDirectory,
        *,
        interactive: Services,
        bulk: Services,
    ) -> None:
        self._settings = settings
        self._pipelines = pipelines
        self._directory = directory
        self._limit = AimdLimit()
        self._interactive = interactive
        self._bulk = bulk
        self._streams: set[IndexStream] = set()

    def drain(self) -> None:
        """End the index streams after the documents that they have read; callers send the rest again."""
        for stream in self._streams:
            stream.drain()

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Run a pipeline."""
        started = perf_counter()
        name = request.pipeline or DEFAULT_NAME
        pipeline = self._pipeline(name)
        query = query_of(request, pipeline, max_query_bytes=self._settings.max_query_bytes)
        with self._limit_searches(context):
            deadline = self._deadline(context)
            answer = await search(self._interactive, self._directory, (name, pipeline), query, deadline)
            return response_of(name, answer, perf_counter() - started)

    async def Index(
        self, request_iterator: AsyncIterator[pb.IndexRequest], context: Context
    ) -> AsyncIterator[pb.IndexResponse]:
        """Index a stream of documents."""
        stream = IndexStream(self._bulk, self._settings.index_limits())
        # If the caller disconnects while a response is written, this generator stays suspended: the callback stops it.
        context.add_done_callback(_call(stream.stop))
        self._streams.add(stream)
        messages = messages_of(request_iterator, max_message_documents=self._settings.max_message_documents)
        try:
            async for acknowledgements in stream.acknowledgements(messages):
                yield index_response(acknowledgements)
        finally:
            self._streams.discard(stream)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        """Delete documents."""
        only, deadline = check_delete(request), self._deadline(context)
        retrieval = self._interactive.retrieval
        if not is_chunked(await self._directory.look_up(request.collection, deadline)):
            deleted = await retrieval.delete(request.collection, request.document_ids, only, deadline)
            return pb.DeleteResponse(deleted_count=deleted)
        chunks = only or of_parents(request.document_ids)
        parents = await retrieval.count(request.collection, first_of(chunks), deadline)
        await retrieval.delete(request.collection, [], chunks, deadline)
        return pb.DeleteResponse(deleted_count=parents)

    async def ListPipelines(self, request: pb.ListPipelinesRequest, context: Context) -> pb.ListPipelinesResponse:
        """List the pipelines."""
        models = self._directory.embedders, self._directory.rerankers
        pipelines = [
            pipeline_of(name, pipeline, check(pipeline, *models))
            for name, pipeline in sorted(self._pipelines.current.items())
        ]
        return pb.ListPipelinesResponse(pipelines=pipelines)

    @contextmanager
    def _limit_searches(self, context: Context) -> Iterator[None]:
        """Count a search as running. Raises Unavailable, before any work, if the limit is reached."""
        started = monotonic()
        if not self._limit.enter():
            raise Unavailable(
                f"{self._limit.running} searches are running, which is the limit; try another replica, or again later",
                reason=ErrorReason.ERROR_REASON_OVERLOADED,
                retry_after_s=_RETRY_AFTER_S,
            )
        was_late = False
        try:
            yield
        except DeadlineExpired:
            was_late = True
            raise
        finally:
            remaining = context.time_remaining()
            was_late = was_late or (remaining is not None and remaining <= 0)
            self._limit.leave(started=started, now=monotonic(), was_late=was_late)
            SEARCH_LIMIT.set(int(self._limit.value))

    def _pipeline(self, name: str) -> Pipeline:
        """Return the pipeline of this name. Raises NotFound."""
        pipelines = self._pipelines.current
        if name in pipelines:
            return pipelines[name]
        raise NotFound(
            f"expected a pipeline of {', '.join(sorted(pipelines))}, got {name!r:.80}",
            reason=ErrorReason.ERROR_REASON_UNKNOWN_PIPELINE,
        )

    def _deadline(self, context: Context) -> Deadline:
        """Return the caller's deadline, minus the time to build and send the response."""
        deadline = Deadline.of(context, default_s=self._settings.max_deadline_s)
        return deadline.earlier_by(reserve_s(deadline.remaining_s(), self._settings.reserve_s))


def _call(function: Callable[[], None]) -> Any:
    """Return a done callback of a call that ignores the call."""
    return lambda _: function()
