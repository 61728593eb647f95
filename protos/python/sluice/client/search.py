"""Clients of the search service, which applications use to search and to index."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

import grpc

from sluice.client import answers
from sluice.client.answers import Acknowledgement, Pipeline, SearchAnswer
from sluice.client.calls import AsyncClient, Client
from sluice.client.credentials import with_trace
from sluice.client.documents import Document
from sluice.client.filters import filter_proto
from sluice.client.index_options import Chunking, Windows, opening
from sluice.client.indexing import DEFAULT_PATIENCE_S, NoAnswer, Window, index_stream
from sluice.client.patience import IndexJob, OnRetry, Watchdog
from sluice.common.v1.filter_pb2 import Filter
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

if TYPE_CHECKING:
    from sluice.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub

DEFAULT_UNACKNOWLEDGED: Final = 512


class SearchClient(Client):
    """A client of the search service: searches, indexes and deletes.

    A filter is a text (see `sluice.client.where`) or a proto.
    """

    # Generated from AsyncSearchClient by protos/unasync.py; do not edit.

    @cached_property
    def _stub(self) -> SearchServiceStub:
        return SearchServiceStub(self._channel)

    def search(  # noqa: PLR0913 - fields of the request
        self,
        collection: str,
        query: str,
        *,
        top_k: int = 0,
        pipeline: str = "",
        filter: Filter | str | None = None,
        more_queries: Sequence[str] = (),
        group_by_parent: bool = False,
        timeout_s: float | None = None,
    ) -> SearchAnswer:
        """Return the best documents for a query. Raises SluiceError.

        top_k            number of results; 0 takes the server's default
        pipeline         name of the pipeline; empty takes the server's default
        more_queries     up to 7 other wordings, which help to find candidates; only `query` ranks the candidates
        group_by_parent  for a collection of chunks: return only the best chunk of each document; top_k counts documents
        """
        request = _search_request(collection, query, top_k, pipeline, filter)
        request.more_queries.extend(more_queries)
        request.group_by_parent = group_by_parent
        return answers.search_answer(self._call(self._stub.Search, request, timeout_s))

    def delete(
        self,
        collection: str,
        document_ids: Sequence[str] = (),
        *,
        filter: Filter | str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Delete documents by id or by filter, and return their number. Raises SluiceError."""
        request = pb.DeleteRequest(collection=collection, document_ids=document_ids, filter=filter_proto(filter))
        return self._call(self._stub.Delete, request, timeout_s).deleted_count

    def pipelines(self, *, timeout_s: float | None = None) -> list[Pipeline]:
        """Return the pipelines of the server, by name. Raises SluiceError."""
        return answers.pipelines(self._call(self._stub.ListPipelines, pb.ListPipelinesRequest(), timeout_s))

    # End of the generated code.

    def index(  # noqa: PLR0913 - options of the stream
        self,
        collection: str,
        documents: Iterable[Document],
        *,
        create: bool = False,
        filterable_fields: Mapping[str, str] | None = None,
        chunking: Chunking | None = None,
        windows: Windows | None = None,
        max_unacknowledged: int = DEFAULT_UNACKNOWLEDGED,
        patience_s: float = DEFAULT_PATIENCE_S,
        on_retry: OnRetry | None = None,
    ) -> Iterator[Acknowledgement]:
        """Index documents. Yield the acknowledgement of each one when it is on disk or rejected, in any order.

        Documents are read in the caller's thread. At most `max_unacknowledged` (64 or more) are in memory. If the
        stream breaks, it is opened again, and documents that were not acknowledged are sent again.

        create             create the collection if it does not exist, for the server's embedding model
        filterable_fields  of a created collection: name to "string", "number", "bool", "timestamp" or "list"
        chunking           cut documents into chunks, which are stored and found in their place; None stores documents
        windows            of a created collection: embed documents over the model's limit in windows; None truncates
                           them in a new collection, and uses the windows of an existing one
        patience_s         longest time without an acknowledgement; after that, Unavailable is raised
        on_retry           called with the error and the seconds to wait, each time before the stream is opened again

        Raises SluiceError.
        """
        first = opening(collection, create, filterable_fields or {}, chunking, windows)
        job = IndexJob(first, Window(max_unacknowledged), patience_s, on_retry)
        source = iter(documents)
        while True:
            try:
                yield from self._index_stream(job, source)
                return
            except grpc.RpcError as error:
                time.sleep(job.broken(error))

    def _index_stream(self, job: IndexJob, source: Iterator[Document]) -> Iterator[Acknowledgement]:
        """Yield the acknowledgements of one stream, to the end of the source.

        Raises grpc.RpcError if the stream breaks, and Unavailable if there is no acknowledgement in time.
        """
        window = job.window
        outgoing: SimpleQueue[pb.IndexRequest | None] = SimpleQueue()
        responses = self._stub.Index(iter(outgoing.get, None), metadata=with_trace(self._bearer))
        watchdog = Watchdog(responses.cancel)
        try:
            outgoing.put(job.first)
            ended = False
            while True:
                _send(window, outgoing)
                while not ended and (room := window.room()):
                    taken = list(islice(source, room))
                    ended = len(taken) < room
                    job.progressed(len(taken))
                    yield from window.add(taken)
                    _send(window, outgoing)
                if ended and not window.is_waiting:
                    outgoing.put(None)
                if (response := watchdog.read(responses, job)) is None:
                    break
                yield from job.acknowledge(response)
            window.expect_empty()
        finally:
            outgoing.put(None)
            responses.cancel()
            watchdog.close()


class AsyncSearchClient(AsyncClient):
    """`SearchClient` for asyncio."""

    @cached_property
    def _stub(self) -> "SearchServiceAsyncStub":
        return SearchServiceStub(self._channel)

    async def search(  # noqa: PLR0913 - fields of the request
        self,
        collection: str,
        query: str,
        *,
        top_k: int = 0,
        pipeline: str = "",
        filter: Filter | str | None = None,
        more_queries: Sequence[str] = (),
        group_by_parent: bool = False,
        timeout_s: float | None = None,
    ) -> SearchAnswer:
        """Return the best documents for a query. Raises SluiceError.

        top_k            number of results; 0 takes the server's default
        pipeline         name of the pipeline; empty takes the server's default
        more_queries     up to 7 other wordings, which help to find candidates; only `query` ranks the candidates
        group_by_parent  for a collection of chunks: return only the best chunk of each document; top_k counts documents
        """
        request = _search_request(collection, query, top_k, pipeline, filter)
        request.more_queries.extend(more_queries)
        request.group_by_parent = group_by_parent
        return answers.search_answer(await self._call(self._stub.Search, request, timeout_s))

    async def index(  # noqa: PLR0913 - options of the stream
        self,
        collection: str,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        create: bool = False,
        filterable_fields: Mapping[str, str] | None = None,
        chunking: Chunking | None = None,
        windows: Windows | None = None,
        max_unacknowledged: int = DEFAULT_UNACKNOWLEDGED,
        patience_s: float = DEFAULT_PATIENCE_S,
        on_retry: OnRetry | None = None,
    ) -> AsyncIterator[Acknowledgement]:
        """Index documents, as `SearchClient.index` does. They may also come from an async iterable."""
        first = opening(collection, create, filterable_fields or {}, chunking, windows)
        job = IndexJob(first, Window(max_unacknowledged), patience_s, on_retry)
        source = documents.__aiter__() if isinstance(documents, AsyncIterable) else _each(documents)
        while True:
            try:
                async for acknowledgement in index_stream(
                    partial(self._stub.Index, metadata=with_trace(self._bearer)),
                    job.first,
                    job.window,
                    source,
                    job.progressed,
                    lambda: job.ends_at - time.monotonic() + asyncio.get_running_loop().time(),
                ):
                    yield acknowledgement
                return
            except NoAnswer:
                raise job.given_up() from None
            except grpc.RpcError as error:
                await asyncio.sleep(job.broken(error))

    async def delete(
        self,
        collection: str,
        document_ids: Sequence[str] = (),
        *,
        filter: Filter | str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Delete documents by id or by filter, and return their number. Raises SluiceError."""
        request = pb.DeleteRequest(collection=collection, document_ids=document_ids, filter=filter_proto(filter))
        return (await self._call(self._stub.Delete, request, timeout_s)).deleted_count

    async def pipelines(self, *, timeout_s: float | None = None) -> list[Pipeline]:
        """Return the pipelines of the server, by name. Raises SluiceError."""
        return answers.pipelines(await self._call(self._stub.ListPipelines, pb.ListPipelinesRequest(), timeout_s))


def _search_request(
    collection: str, query: str, top_k: int, pipeline: str, filter: Filter | str | None
) -> pb.SearchRequest:
    return pb.SearchRequest(
        collection=collection,
        query=query,
        top_k=top_k,
        pipeline=pipeline,
        filter=filter_proto(filter),
    )


def _send(window: Window, outgoing: "SimpleQueue[pb.IndexRequest | None]") -> None:
    """Queue the messages that the window can send. The limit of the window also limits the queue."""
    for message in window.messages():
        outgoing.put_nowait(message)


async def _each(documents: Iterable[Document]) -> AsyncIterator[Document]:
    for document in documents:
        yield document
