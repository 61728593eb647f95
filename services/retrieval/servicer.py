"""The RetrievalService: requests to the engine, what it gives to responses."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import grpc
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from services.retrieval.domain.documents import Batch
from services.retrieval.domain.engine_protocol import Engine
from services.retrieval.domain.filters import Filter
from services.retrieval.hybrid.execution import answer
from services.retrieval.lanes import Jobs, Lane, check
from services.retrieval.server import Opened, now_us, opened
from services.retrieval.settings import RetrievalSettings
from services.retrieval.snapshots.repository import Snapshots
from services.retrieval.wire import documents, requests, schema, snapshots
from services.rpc.deadline import Deadline
from services.rpc.observability.gauges import registered
from services.rpc.observability.metrics import RANKINGS
from services.rpc.server.lifecycle import Service

Context = grpc.aio.ServicerContext[Any, Any]

# Kept of a caller's time to look up and send what was found.
_ANSWER_S: Final = 0.02

_NAME = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name


class RetrievalServicer(pb_grpc.RetrievalServiceServicer):
    """Checks and reads in the `reads` lane, writes in the `writes` lane; the event loop does neither."""

    def __init__(self, chosen: Opened, settings: RetrievalSettings, threads: "Threads") -> None:
        self._engine: Engine[Any] = chosen.engine
        self._note = chosen.note
        self._settings = settings
        self._reads = threads.reads
        self._writes = threads.writes
        self._jobs = threads.jobs
        self._snapshots = Snapshots(settings.snapshots, chosen.engine.copy_to, now_us)

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """Create a collection, or find the equal one."""
        deadline = self._deadline(context)
        name, fields = await self._reads.run(deadline, schema.new_collection, request)
        created = await self._writes.run(deadline, self._engine.create, name, fields)
        return pb.CreateCollectionResponse(collection=await self._reads.run(deadline, self._described, created))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """Describe a collection."""
        described = await self._reads.run(self._deadline(context), lambda: self._described(self._find(request.name)))
        return pb.GetCollectionResponse(collection=described)

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """List all collections."""
        return await self._reads.run(self._deadline(context), self._list_collections)

    async def DropCollection(self, request: pb.DropCollectionRequest, context: Context) -> pb.DropCollectionResponse:
        """Delete a collection."""
        count = await self._writes.run(self._deadline(context), self._engine.drop, request.name)
        return pb.DropCollectionResponse(deleted_count=count)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Point an alias at a collection."""
        await self._writes.run(self._deadline(context), lambda: self._engine.set_alias(*schema.alias(request)))
        return pb.SetAliasResponse()

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Take an alias away."""
        await self._writes.run(self._deadline(context), self._engine.delete_alias, request.alias)
        return pb.DeleteAliasResponse()

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        """List all aliases."""
        aliases = await self._reads.run(self._deadline(context), lambda: sorted(self._engine.catalogue.aliases.items()))
        return pb.ListAliasesResponse(aliases=[pb.Alias(alias=alias, collection=name) for alias, name in aliases])

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        """Write documents."""
        deadline = self._deadline(context)
        collection, batch = await self._reads.run(deadline, self._batch, request)
        done = await self._writes.run(deadline, self._engine.upsert, collection, batch)
        return pb.UpsertResponse(
            inserted_count=done.inserted_count, replaced_count=done.replaced_count, version=done.version
        )

    async def DeleteDocuments(self, request: pb.DeleteDocumentsRequest, context: Context) -> pb.DeleteDocumentsResponse:
        """Delete documents."""
        deadline = self._deadline(context)
        collection, chosen = await self._reads.run(deadline, self._chosen, request)
        done = await self._writes.run(deadline, self._engine.delete, collection, chosen)
        return pb.DeleteDocumentsResponse(deleted_count=done.deleted_count, version=done.version)

    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Context) -> pb.GetDocumentsResponse:
        """Look up documents."""
        return await self._reads.run(self._deadline(context), self._get_documents, request)

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """List documents."""
        return await self._reads.run(self._deadline(context), self._list_documents, request)

    async def CountDocuments(self, request: pb.CountDocumentsRequest, context: Context) -> pb.CountDocumentsResponse:
        """Count documents."""
        return await self._reads.run(self._deadline(context), self._count_documents, request)

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:
        """Find candidates."""
        deadline = self._deadline(context)
        return await self._reads.run(deadline, self._retrieve, request, deadline.earlier_by(_ANSWER_S))

    async def OptimizeCollection(
        self, request: pb.OptimizeCollectionRequest, context: Context
    ) -> pb.OptimizeCollectionResponse:
        """Merge a collection."""
        collection = await self._reads.run(self._deadline(context), self._find, request.name)
        before, after = await self._jobs.run(collection.key, partial(self._engine.optimize, collection))
        return pb.OptimizeCollectionResponse(
            before=schema.statistics_message(before), after=schema.statistics_message(after)
        )

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        """Make a snapshot."""
        name, keep = snapshots.wanted(request)
        key = ("snapshot", name or object())
        snapshot, deleted = await self._jobs.run(key, partial(self._snapshots.create, name, keep))
        return pb.CreateSnapshotResponse(snapshot=snapshots.message(snapshot), deleted=deleted)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        """List all snapshots."""
        found = await self._reads.run(self._deadline(context), self._snapshots.all)
        return pb.ListSnapshotsResponse(snapshots=map(snapshots.message, found))

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Context) -> pb.DeleteSnapshotResponse:
        """Delete a snapshot."""
        await self._jobs.run(("delete", request.name), lambda _: self._snapshots.delete(request.name))
        return pb.DeleteSnapshotResponse()

    def _find(self, name: str) -> Any:
        return self._engine.catalogue.find(name)

    def _described(self, collection: Any) -> pb.Collection:
        return schema.collection_message(collection, self._engine.statistics(collection))

    def _list_collections(self) -> pb.ListCollectionsResponse:
        found = sorted(self._engine.catalogue.collections.items())
        return pb.ListCollectionsResponse(collections=[self._described(collection) for _, collection in found])

    def _batch(self, request: pb.UpsertRequest) -> tuple[Any, Batch]:
        collection = self._find(request.collection)
        return collection, documents.batch(request, collection.schema)

    def _chosen(self, request: pb.DeleteDocumentsRequest) -> tuple[Any, Sequence[str] | Filter]:
        collection = self._find(request.collection)
        return collection, requests.chosen(request, collection.schema)

    def _get_documents(self, request: pb.GetDocumentsRequest) -> pb.GetDocumentsResponse:
        with self._engine.moment(request.collection) as moment:
            ids, with_documents = requests.ids(request)
            found = moment.documents(ids)
        messages, hashes = documents.messages(found, with_documents=with_documents)
        return pb.GetDocumentsResponse(documents=messages, content_hashes=hashes)

    def _list_documents(self, request: pb.ListDocumentsRequest) -> pb.ListDocumentsResponse:
        with self._engine.moment(request.collection) as moment:
            page = requests.page(request, moment.schema)
            found, has_more = moment.page(page.after, page.size, page.condition)
        messages, hashes = documents.messages(found, with_documents=page.with_documents)
        token = found[-1].document_id if has_more else ""
        return pb.ListDocumentsResponse(documents=messages, content_hashes=hashes, next_page_token=token)

    def _count_documents(self, request: pb.CountDocumentsRequest) -> pb.CountDocumentsResponse:
        with self._engine.moment(request.collection) as moment:
            count = moment.count(requests.counted(request, moment.schema))
        return pb.CountDocumentsResponse(document_count=count)

    def _retrieve(self, request: pb.RetrieveRequest, deadline: Deadline) -> pb.RetrieveResponse:
        with self._engine.moment(request.collection) as moment:
            asked = requests.search(request, moment.schema, max_depth=self._settings.max_depth)
            asked = replace(asked, queries=[moment.fed_back(query) for query in asked.queries])
            answered = answer(moment, asked, lambda: _is_over(deadline), max_depth=self._settings.max_depth)
        candidates = answered.found.candidates
        self._note(moment, asked.queries, asked.condition, candidates)
        for one in candidates:
            RANKINGS.labels("full" if one.coverage == 1 else "cut").inc()
        return requests.response(answered)

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.of(context, default_s=self._settings.max_deadline_s)


def _is_over(deadline: Deadline) -> bool:
    """Whether a search is to answer with what it has. Raises DeadlineExpired or Cancelled when nobody waits."""
    check()
    return deadline.remaining_s() <= 0


@dataclass(frozen=True)
class Threads:
    """Where the work of calls is done."""

    reads: Lane
    writes: Lane
    jobs: Jobs

    @classmethod
    def of(cls, settings: RetrievalSettings, writers: int) -> "Threads":
        """As many as the settings say, and so many that write."""
        reads = Lane("reads", threads=settings.search_threads, max_waiting=settings.max_waiting_reads)
        return cls(reads, Lane("writes", threads=writers, max_waiting=settings.max_waiting_writes), Jobs())

    def close(self) -> None:
        """Wait for what has started, but for jobs, which are stopped."""
        self.jobs.close()
        self.writes.close()
        self.reads.close()


@asynccontextmanager
async def build(settings: RetrievalSettings) -> AsyncIterator[Sequence[Service]]:
    """The service on its engine. Raises StartFailed when that cannot be opened."""
    with opened(settings) as chosen:
        threads = Threads.of(settings, chosen.writers)
        disk = chosen.disk
        watching = asyncio.create_task(disk.watch(threads.writes)) if disk else None
        try:
            servicer = RetrievalServicer(chosen, settings, threads)
            with registered(chosen.readings):
                yield [
                    Service(
                        _NAME,
                        lambda server: pb_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
                        problem=lambda: disk.trouble if disk and not settings.ready_unwritable else "",
                    )
                ]
        finally:
            if watching:
                watching.cancel()
            threads.close()
