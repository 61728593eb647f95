"""The client of the retrieval service: collections, and their documents and vectors.

Requests and responses are the protos: who works on this level needs all of them.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from sluice.client.calls import AsyncClient, Client
from sluice.client.documents import Document, document_of
from sluice.client.filters import filter_proto
from sluice.common.v1.filter_pb2 import Filter
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

if TYPE_CHECKING:
    from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceAsyncStub


class RetrievalClient(Client):
    """Keeps collections, and finds candidates in them."""

    @cached_property
    def _stub(self) -> RetrievalServiceStub:
        return RetrievalServiceStub(self._channel)

    def create_collection(self, name: str, schema: pb.Schema, *, timeout_s: float | None = None) -> pb.Collection:
        """The created, or equal existing, collection. Raises SluiceError."""
        request = pb.CreateCollectionRequest(name=name, schema=schema)
        return self._call(self._stub.CreateCollection, request, timeout_s).collection

    def collection(self, name: str, *, timeout_s: float | None = None) -> pb.Collection:
        """A collection. Raises SluiceError."""
        return self._call(self._stub.GetCollection, pb.GetCollectionRequest(name=name), timeout_s).collection

    def collections(self, *, timeout_s: float | None = None) -> list[pb.Collection]:
        """All collections, by name. Raises SluiceError."""
        return list(self._call(self._stub.ListCollections, pb.ListCollectionsRequest(), timeout_s).collections)

    def drop_collection(self, name: str, *, timeout_s: float | None = None) -> int:
        """Drop a collection; how many documents went with it. Raises SluiceError."""
        return self._call(self._stub.DropCollection, pb.DropCollectionRequest(name=name), timeout_s).deleted_count

    def documents(
        self, collection: str, document_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> list[Document]:
        """Stored documents in the order of the ids; unknown ones are left out. Raises SluiceError."""
        request = pb.GetDocumentsRequest(collection=collection, document_ids=document_ids)
        return [document_of(proto) for proto in self._call(self._stub.GetDocuments, request, timeout_s).documents]

    def count(self, collection: str, *, filter: Filter | str | None = None, timeout_s: float | None = None) -> int:
        """How many documents there are, or match the filter. Raises SluiceError."""
        request = pb.CountDocumentsRequest(collection=collection, filter=filter_proto(filter))
        return self._call(self._stub.CountDocuments, request, timeout_s).document_count

    def upsert(self, request: pb.UpsertRequest, *, timeout_s: float | None = None) -> pb.UpsertResponse:
        """Insert or replace documents with their vectors; on disk when this returns. Raises SluiceError."""
        return self._call(self._stub.Upsert, request, timeout_s)

    def retrieve(self, request: pb.RetrieveRequest, *, timeout_s: float | None = None) -> pb.RetrieveResponse:
        """Candidates for one or several query vectors. Raises SluiceError."""
        return self._call(self._stub.Retrieve, request, timeout_s)


class AsyncRetrievalClient(AsyncClient):
    """`RetrievalClient` for asyncio."""

    @cached_property
    def _stub(self) -> "RetrievalServiceAsyncStub":
        return RetrievalServiceStub(self._channel)

    async def create_collection(self, name: str, schema: pb.Schema, *, timeout_s: float | None = None) -> pb.Collection:
        """The created, or equal existing, collection. Raises SluiceError."""
        request = pb.CreateCollectionRequest(name=name, schema=schema)
        return (await self._call(self._stub.CreateCollection, request, timeout_s)).collection

    async def collection(self, name: str, *, timeout_s: float | None = None) -> pb.Collection:
        """A collection. Raises SluiceError."""
        return (await self._call(self._stub.GetCollection, pb.GetCollectionRequest(name=name), timeout_s)).collection

    async def collections(self, *, timeout_s: float | None = None) -> list[pb.Collection]:
        """All collections, by name. Raises SluiceError."""
        response = await self._call(self._stub.ListCollections, pb.ListCollectionsRequest(), timeout_s)
        return list(response.collections)

    async def drop_collection(self, name: str, *, timeout_s: float | None = None) -> int:
        """Drop a collection; how many documents went with it. Raises SluiceError."""
        response = await self._call(self._stub.DropCollection, pb.DropCollectionRequest(name=name), timeout_s)
        return response.deleted_count

    async def documents(
        self, collection: str, document_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> list[Document]:
        """Stored documents in the order of the ids; unknown ones are left out. Raises SluiceError."""
        request = pb.GetDocumentsRequest(collection=collection, document_ids=document_ids)
        response = await self._call(self._stub.GetDocuments, request, timeout_s)
        return [document_of(proto) for proto in response.documents]

    async def count(
        self, collection: str, *, filter: Filter | str | None = None, timeout_s: float | None = None
    ) -> int:
        """How many documents there are, or match the filter. Raises SluiceError."""
        request = pb.CountDocumentsRequest(collection=collection, filter=filter_proto(filter))
        return (await self._call(self._stub.CountDocuments, request, timeout_s)).document_count

    async def upsert(self, request: pb.UpsertRequest, *, timeout_s: float | None = None) -> pb.UpsertResponse:
        """Insert or replace documents with their vectors; on disk when this returns. Raises SluiceError."""
        return await self._call(self._stub.Upsert, request, timeout_s)

    async def retrieve(self, request: pb.RetrieveRequest, *, timeout_s: float | None = None) -> pb.RetrieveResponse:
        """Candidates for one or several query vectors. Raises SluiceError."""
        return await self._call(self._stub.Retrieve, request, timeout_s)
