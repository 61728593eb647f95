"""Clients of the retrieval service: collections with their documents and vectors.

Most requests and responses are protos, because users of this level need all of their fields.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
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
    """A client of the retrieval service, which stores collections and finds candidates in them."""

    # Generated from AsyncRetrievalClient by protos/unasync.py; do not edit.

    @cached_property
    def _stub(self) -> RetrievalServiceStub:
        return RetrievalServiceStub(self._channel)

    def create_collection(self, name: str, schema: pb.Schema, *, timeout_s: float | None = None) -> pb.Collection:
        """Create a collection and return it, or the existing one with an equal schema. Raises SluiceError."""
        request = pb.CreateCollectionRequest(name=name, schema=schema)
        return self._call(self._stub.CreateCollection, request, timeout_s).collection

    def collection(self, name: str, *, timeout_s: float | None = None) -> pb.Collection:
        """Return a collection. Raises SluiceError."""
        return self._call(self._stub.GetCollection, pb.GetCollectionRequest(name=name), timeout_s).collection

    def collections(self, *, timeout_s: float | None = None) -> list[pb.Collection]:
        """Return all collections, by name. Raises SluiceError."""
        response = self._call(self._stub.ListCollections, pb.ListCollectionsRequest(), timeout_s)
        return list(response.collections)

    def drop_collection(self, name: str, *, timeout_s: float | None = None) -> int:
        """Delete a collection and return the number of its documents. Raises SluiceError."""
        response = self._call(self._stub.DropCollection, pb.DropCollectionRequest(name=name), timeout_s)
        return response.deleted_count

    def documents(
        self, collection: str, document_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> list[Document]:
        """Return stored documents in the order of the ids, without unknown ids. Raises SluiceError."""
        request = pb.GetDocumentsRequest(collection=collection, document_ids=document_ids)
        response = self._call(self._stub.GetDocuments, request, timeout_s)
        return [document_of(proto) for proto in response.documents]

    def count(self, collection: str, *, filter: Filter | str | None = None, timeout_s: float | None = None) -> int:
        """Return the number of documents, or of those that match the filter. Raises SluiceError."""
        request = pb.CountDocumentsRequest(collection=collection, filter=filter_proto(filter))
        return self._call(self._stub.CountDocuments, request, timeout_s).document_count

    def upsert(self, request: pb.UpsertRequest, *, timeout_s: float | None = None) -> pb.UpsertResponse:
        """Insert or replace documents with their vectors. They are on disk when this returns. Raises SluiceError."""
        return self._call(self._stub.Upsert, request, timeout_s)

    def retrieve(self, request: pb.RetrieveRequest, *, timeout_s: float | None = None) -> pb.RetrieveResponse:
        """Return the candidates for one or more queries. Raises SluiceError."""
        return self._call(self._stub.Retrieve, request, timeout_s)

    def optimize_collection(self, name: str, *, timeout_s: float | None = None) -> pb.OptimizeCollectionResponse:
        """Compact a collection and return its statistics before and after. Waits up to an hour. Raises SluiceError."""
        request = pb.OptimizeCollectionRequest(name=name)
        return self._call_joined(self._stub.OptimizeCollection, request, timeout_s)

    def create_snapshot(
        self, name: str = "", *, keep: int = 0, timeout_s: float | None = None
    ) -> pb.CreateSnapshotResponse:
        """Create a snapshot, which is on disk when this returns. Waits up to an hour. Raises SluiceError.

        name  of the snapshot; empty takes the current time
        keep  number of snapshots to keep: the oldest beyond it are deleted afterwards; 0 keeps all
        """
        request = pb.CreateSnapshotRequest(name=name or _present_name(), keep=keep)
        return self._call_joined(self._stub.CreateSnapshot, request, timeout_s)

    def snapshots(self, *, timeout_s: float | None = None) -> list[pb.Snapshot]:
        """Return all snapshots, oldest first. Raises SluiceError."""
        response = self._call(self._stub.ListSnapshots, pb.ListSnapshotsRequest(), timeout_s)
        return list(response.snapshots)

    def delete_snapshot(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a snapshot. Raises SluiceError."""
        self._call(self._stub.DeleteSnapshot, pb.DeleteSnapshotRequest(name=name), timeout_s)

    # End of the generated code.


class AsyncRetrievalClient(AsyncClient):
    """`RetrievalClient` for asyncio."""

    @cached_property
    def _stub(self) -> "RetrievalServiceAsyncStub":
        return RetrievalServiceStub(self._channel)

    async def create_collection(self, name: str, schema: pb.Schema, *, timeout_s: float | None = None) -> pb.Collection:
        """Create a collection and return it, or the existing one with an equal schema. Raises SluiceError."""
        request = pb.CreateCollectionRequest(name=name, schema=schema)
        return (await self._call(self._stub.CreateCollection, request, timeout_s)).collection

    async def collection(self, name: str, *, timeout_s: float | None = None) -> pb.Collection:
        """Return a collection. Raises SluiceError."""
        return (await self._call(self._stub.GetCollection, pb.GetCollectionRequest(name=name), timeout_s)).collection

    async def collections(self, *, timeout_s: float | None = None) -> list[pb.Collection]:
        """Return all collections, by name. Raises SluiceError."""
        response = await self._call(self._stub.ListCollections, pb.ListCollectionsRequest(), timeout_s)
        return list(response.collections)

    async def drop_collection(self, name: str, *, timeout_s: float | None = None) -> int:
        """Delete a collection and return the number of its documents. Raises SluiceError."""
        response = await self._call(self._stub.DropCollection, pb.DropCollectionRequest(name=name), timeout_s)
        return response.deleted_count

    async def documents(
        self, collection: str, document_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> list[Document]:
        """Return stored documents in the order of the ids, without unknown ids. Raises SluiceError."""
        request = pb.GetDocumentsRequest(collection=collection, document_ids=document_ids)
        response = await self._call(self._stub.GetDocuments, request, timeout_s)
        return [document_of(proto) for proto in response.documents]

    async def count(
        self, collection: str, *, filter: Filter | str | None = None, timeout_s: float | None = None
    ) -> int:
        """Return the number of documents, or of those that match the filter. Raises SluiceError."""
        request = pb.CountDocumentsRequest(collection=collection, filter=filter_proto(filter))
        return (await self._call(self._stub.CountDocuments, request, timeout_s)).document_count

    async def upsert(self, request: pb.UpsertRequest, *, timeout_s: float | None = None) -> pb.UpsertResponse:
        """Insert or replace documents with their vectors. They are on disk when this returns. Raises SluiceError."""
        return await self._call(self._stub.Upsert, request, timeout_s)

    async def retrieve(self, request: pb.RetrieveRequest, *, timeout_s: float | None = None) -> pb.RetrieveResponse:
        """Return the candidates for one or more queries. Raises SluiceError."""
        return await self._call(self._stub.Retrieve, request, timeout_s)

    async def optimize_collection(self, name: str, *, timeout_s: float | None = None) -> pb.OptimizeCollectionResponse:
        """Compact a collection and return its statistics before and after. Waits up to an hour. Raises SluiceError."""
        request = pb.OptimizeCollectionRequest(name=name)
        return await self._call_joined(self._stub.OptimizeCollection, request, timeout_s)

    async def create_snapshot(
        self, name: str = "", *, keep: int = 0, timeout_s: float | None = None
    ) -> pb.CreateSnapshotResponse:
        """Create a snapshot, which is on disk when this returns. Waits up to an hour. Raises SluiceError.

        name  of the snapshot; empty takes the current time
        keep  number of snapshots to keep: the oldest beyond it are deleted afterwards; 0 keeps all
        """
        request = pb.CreateSnapshotRequest(name=name or _present_name(), keep=keep)
        return await self._call_joined(self._stub.CreateSnapshot, request, timeout_s)

    async def snapshots(self, *, timeout_s: float | None = None) -> list[pb.Snapshot]:
        """Return all snapshots, oldest first. Raises SluiceError."""
        response = await self._call(self._stub.ListSnapshots, pb.ListSnapshotsRequest(), timeout_s)
        return list(response.snapshots)

    async def delete_snapshot(self, name: str, *, timeout_s: float | None = None) -> None:
        """Delete a snapshot. Raises SluiceError."""
        await self._call(self._stub.DeleteSnapshot, pb.DeleteSnapshotRequest(name=name), timeout_s)


def _present_name() -> str:
    """Return a name from the current time, such as 20260131t235959-123456.

    The client chooses the name, so that a retry does not create a second snapshot.
    """
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S-%f}"
