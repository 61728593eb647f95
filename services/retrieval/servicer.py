"""The RetrievalService: requests to the engine, what it gives to responses."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from services.retrieval.engine import Engine
from services.retrieval.settings import RetrievalSettings
from services.retrieval.wire import documents, queries, schemas
from services.retrieval.workers import Lane
from services.rpc.deadline import Deadline
from services.rpc.server import Service

Context = grpc.aio.ServicerContext[Any, Any]

_NAME = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name


class RetrievalServicer(pb_grpc.RetrievalServiceServicer):
    """Checks and reads in the `reads` lane, writes in the `writes` lane; the event loop does neither."""

    def __init__(self, engine: Engine, settings: RetrievalSettings, reads: Lane, writes: Lane) -> None:
        self._engine = engine
        self._settings = settings
        self._reads = reads
        self._writes = writes

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """Create a collection, or find the equal one."""
        name, schema = schemas.new_collection(request)
        created = await self._writes.run(self._deadline(context), self._engine.create, name, schema)
        return pb.CreateCollectionResponse(collection=schemas.collection_message(created))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """Describe a collection."""
        collection = self._engine.collection(request.name)
        return pb.GetCollectionResponse(collection=schemas.collection_message(collection))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """List all collections."""
        collections = self._engine.collections()
        return pb.ListCollectionsResponse(collections=map(schemas.collection_message, collections))

    async def DropCollection(self, request: pb.DropCollectionRequest, context: Context) -> pb.DropCollectionResponse:
        """Delete a collection."""
        count = await self._writes.run(self._deadline(context), self._engine.drop, request.name)
        return pb.DropCollectionResponse(deleted_count=count)

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        """Write documents."""
        deadline = self._deadline(context)
        schema = self._engine.collection(request.collection).schema
        batch = await self._reads.run(deadline, documents.batch, request, schema)
        done = await self._writes.run(deadline, self._engine.upsert, request.collection, schema, batch)
        return pb.UpsertResponse(
            inserted_count=done.inserted_count, replaced_count=done.replaced_count, version=done.version
        )

    async def DeleteDocuments(self, request: pb.DeleteDocumentsRequest, context: Context) -> pb.DeleteDocumentsResponse:
        """Delete documents."""
        schema = self._engine.collection(request.collection).schema
        chosen = queries.chosen(request, schema)
        done = await self._writes.run(self._deadline(context), self._engine.delete, request.collection, schema, chosen)
        return pb.DeleteDocumentsResponse(deleted_count=done.deleted_count, version=done.version)

    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Context) -> pb.GetDocumentsResponse:
        """Look up documents."""
        return await self._reads.run(self._deadline(context), self._get_documents, request)

    async def CountDocuments(self, request: pb.CountDocumentsRequest, context: Context) -> pb.CountDocumentsResponse:
        """Count documents."""
        return await self._reads.run(self._deadline(context), self._count_documents, request)

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:
        """Find candidates."""
        return await self._reads.run(self._deadline(context), self._retrieve, request)

    def _get_documents(self, request: pb.GetDocumentsRequest) -> pb.GetDocumentsResponse:
        ids, with_documents = queries.ids(request)
        found = self._engine.documents(request.collection, ids)
        hashes = [document.content_hash for document in found]
        if with_documents:
            return pb.GetDocumentsResponse(documents=map(documents.message, found), content_hashes=hashes)
        return pb.GetDocumentsResponse(documents=map(documents.id_message, found), content_hashes=hashes)

    def _count_documents(self, request: pb.CountDocumentsRequest) -> pb.CountDocumentsResponse:
        collection = self._engine.collection(request.collection)
        condition = queries.counted(request, collection.schema)
        return pb.CountDocumentsResponse(document_count=self._engine.count(collection, condition))

    def _retrieve(self, request: pb.RetrieveRequest) -> pb.RetrieveResponse:
        schema = self._engine.collection(request.collection).schema
        search = queries.search(request, schema, max_depth=self._settings.max_depth)
        found = self._engine.retrieve(
            request.collection, schema, search.queries, search.condition, with_documents=search.with_documents
        )
        return queries.response(found)

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.of(context, default_s=self._settings.max_deadline_s)


@asynccontextmanager
async def build(settings: RetrievalSettings) -> AsyncIterator[Sequence[Service]]:
    """The service on its data folder. Raises StartFailed when the folder cannot be used."""
    reads = Lane("reads", threads=settings.search_threads, max_waiting=settings.max_waiting_reads)
    writes = Lane("writes", threads=1, max_waiting=settings.max_waiting_writes)
    engine = Engine(
        settings.data,
        now_us=_now_us,
        max_collections=settings.max_collections,
        segment_documents=settings.segment_documents,
    )
    try:
        servicer = RetrievalServicer(engine, settings, reads, writes)
        yield [Service(_NAME, lambda server: pb_grpc.add_RetrievalServiceServicer_to_server(servicer, server))]
    finally:
        writes.close()
        reads.close()
        engine.close()


def _now_us() -> int:
    return int(datetime.now(UTC).timestamp() * 1e6)
