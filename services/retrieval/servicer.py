"""The RetrievalService: translates requests for the engine, and its results to responses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import grpc
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from services.retrieval.domain.documents import Batch
from services.retrieval.domain.engine_protocol import CollectionReader, Engine
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import Candidates, CascadeQuery, Query
from services.retrieval.hybrid.execution import execute
from services.retrieval.lanes import Lanes, check
from services.retrieval.metrics import RANKINGS
from services.retrieval.settings import RetrievalSettings
from services.retrieval.snapshots.repository import SnapshotRepository
from services.retrieval.wire import collections, documents, requests, snapshots
from services.rpc.deadline import Deadline

Context = grpc.aio.ServicerContext[Any, Any]
RecordSearch = Callable[
    [CollectionReader[Any], Sequence[Query | CascadeQuery], Filter | None, Sequence[Candidates]], object
]
"""Records a search: the reader, the queries, the filter, and the candidates of each query."""

# Time reserved before the deadline to look up and send the results.
_RESPONSE_S: Final = 0.02


class RetrievalServicer(pb_grpc.RetrievalServiceServicer):
    """Validates and reads in the `reads` lane, writes in the `writes` lane. Nothing runs on the event loop."""

    def __init__(
        self,
        engine: Engine[Any],
        snapshots: SnapshotRepository,
        lanes: Lanes,
        settings: RetrievalSettings,
        record_search: RecordSearch,
    ) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._reads = lanes.reads
        self._writes = lanes.writes
        self._jobs = lanes.jobs
        self._settings = settings
        self._record_search = record_search

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """Create a collection, or return the existing one if its schema is equal."""
        deadline = self._deadline(context)
        name, schema = await self._reads.run(deadline, collections.new_collection, request)
        created = await self._writes.run(deadline, self._engine.create, name, schema)
        return pb.CreateCollectionResponse(collection=await self._reads.run(deadline, self._describe, created))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """Return a collection."""
        collection = await self._reads.run(self._deadline(context), lambda: self._describe(self._find(request.name)))
        return pb.GetCollectionResponse(collection=collection)

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """Return all collections."""
        return await self._reads.run(self._deadline(context), self._list_collections)

    async def DropCollection(self, request: pb.DropCollectionRequest, context: Context) -> pb.DropCollectionResponse:
        """Delete a collection."""
        count = await self._writes.run(self._deadline(context), self._engine.drop, request.name)
        return pb.DropCollectionResponse(deleted_count=count)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Point an alias at a collection."""
        await self._writes.run(self._deadline(context), lambda: self._engine.set_alias(*collections.alias(request)))
        return pb.SetAliasResponse()

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Delete an alias."""
        await self._writes.run(self._deadline(context), self._engine.delete_alias, request.alias)
        return pb.DeleteAliasResponse()

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        """Return all aliases."""
        aliases = await self._reads.run(self._deadline(context), lambda: sorted(self._engine.catalog.aliases.items()))
        return pb.ListAliasesResponse(aliases=[pb.Alias(alias=alias, collection=name) for alias, name in aliases])

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        """Write documents."""
        deadline = self._deadline(context)
        collection, batch = await self._reads.run(deadline, self._batch, request)
        result = await self._writes.run(deadline, self._engine.upsert, collection, batch)
        return pb.UpsertResponse(
            inserted_count=result.inserted_count, replaced_count=result.replaced_count, version=result.version
        )

    async def DeleteDocuments(self, request: pb.DeleteDocumentsRequest, context: Context) -> pb.DeleteDocumentsResponse:
        """Delete documents."""
        deadline = self._deadline(context)
        collection, chosen = await self._reads.run(deadline, self._chosen, request)
        result = await self._writes.run(deadline, self._engine.delete, collection, chosen)
        return pb.DeleteDocumentsResponse(deleted_count=result.deleted_count, version=result.version)

    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Context) -> pb.GetDocumentsResponse:
        """Return documents by id."""
        return await self._reads.run(self._deadline(context), self._get_documents, request)

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """Return a page of documents."""
        return await self._reads.run(self._deadline(context), self._list_documents, request)

    async def CountDocuments(self, request: pb.CountDocumentsRequest, context: Context) -> pb.CountDocumentsResponse:
        """Count documents."""
        return await self._reads.run(self._deadline(context), self._count_documents, request)

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:
        """Return the candidates of each query."""
        deadline = self._deadline(context)
        return await self._reads.run(deadline, self._retrieve, request, deadline.earlier_by(_RESPONSE_S))

    async def OptimizeCollection(
        self, request: pb.OptimizeCollectionRequest, context: Context
    ) -> pb.OptimizeCollectionResponse:
        """Compact a collection."""
        collection = await self._reads.run(self._deadline(context), self._find, request.name)
        before, after = await self._jobs.run(collection.key, partial(self._engine.optimize, collection))
        return pb.OptimizeCollectionResponse(
            before=collections.statistics_message(before), after=collections.statistics_message(after)
        )

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        """Create a snapshot."""
        name, keep = snapshots.creation(request)
        key = ("snapshot", name or object())
        snapshot, deleted = await self._jobs.run(key, partial(self._snapshots.create, name, keep))
        return pb.CreateSnapshotResponse(snapshot=snapshots.message(snapshot), deleted=deleted)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        """Return all snapshots."""
        found = await self._reads.run(self._deadline(context), self._snapshots.all)
        return pb.ListSnapshotsResponse(snapshots=map(snapshots.message, found))

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Context) -> pb.DeleteSnapshotResponse:
        """Delete a snapshot."""
        await self._jobs.run(("delete", request.name), lambda _: self._snapshots.delete(request.name))
        return pb.DeleteSnapshotResponse()

    def _find(self, name: str) -> Any:
        return self._engine.catalog.find(name)

    def _describe(self, collection: Any) -> pb.Collection:
        return collections.collection_message(collection, self._engine.statistics(collection))

    def _list_collections(self) -> pb.ListCollectionsResponse:
        found = sorted(self._engine.catalog.collections.items())
        return pb.ListCollectionsResponse(collections=[self._describe(collection) for _, collection in found])

    def _batch(self, request: pb.UpsertRequest) -> tuple[Any, Batch]:
        collection = self._find(request.collection)
        return collection, documents.batch(request, collection.schema)

    def _chosen(self, request: pb.DeleteDocumentsRequest) -> tuple[Any, Sequence[str] | Filter]:
        collection = self._find(request.collection)
        return collection, requests.deletion(request, collection.schema)

    def _get_documents(self, request: pb.GetDocumentsRequest) -> pb.GetDocumentsResponse:
        with self._engine.reader(request.collection) as reader:
            ids, with_documents = requests.ids(request)
            found = reader.documents(ids)
        messages, hashes = documents.messages(found, with_documents=with_documents)
        return pb.GetDocumentsResponse(documents=messages, content_hashes=hashes)

    def _list_documents(self, request: pb.ListDocumentsRequest) -> pb.ListDocumentsResponse:
        with self._engine.reader(request.collection) as reader:
            page = requests.page(request, reader.schema)
            found, has_more = reader.page(page.after, page.size, page.condition)
        messages, hashes = documents.messages(found, with_documents=page.with_documents)
        token = found[-1].document_id if has_more else ""
        return pb.ListDocumentsResponse(documents=messages, content_hashes=hashes, next_page_token=token)

    def _count_documents(self, request: pb.CountDocumentsRequest) -> pb.CountDocumentsResponse:
        with self._engine.reader(request.collection) as reader:
            count = reader.count(requests.count(request, reader.schema))
        return pb.CountDocumentsResponse(document_count=count)

    def _retrieve(self, request: pb.RetrieveRequest, deadline: Deadline) -> pb.RetrieveResponse:
        with self._engine.reader(request.collection) as reader:
            spec = requests.search(request, reader.schema, max_depth=self._settings.max_depth)
            spec = replace(spec, queries=[reader.apply_feedback(query) for query in spec.queries])
            result = execute(reader, spec, lambda: _is_over(deadline), max_depth=self._settings.max_depth)
        candidates = result.found.candidates
        self._record_search(reader, spec.queries, spec.condition, candidates)
        for one in candidates:
            RANKINGS.labels("full" if one.coverage == 1 else "cut").inc()
        return requests.response(result)

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.of(context, default_s=self._settings.max_deadline_s)


def _is_over(deadline: Deadline) -> bool:
    """Return whether a search must end now. Raises DeadlineExpired or Cancelled if the caller no longer waits."""
    check()
    return deadline.remaining_s() <= 0
