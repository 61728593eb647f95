"""The client of the retrieval service."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.filter_pb2 import Filter
from sluice.errors import BackendFailed, InvalidRequest, PreconditionFailed, Violation
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.core.ranking import Ranking
from services.orchestrator.downstream.queries import FieldQuery, is_sound
from services.orchestrator.downstream.schemas import Collection
from services.orchestrator.downstream.vectors import FieldVectors
from services.rpc.client.downstream import Downstream
from services.rpc.deadline import Deadline

# Fields of a Retrieve request that the search request has under the same name.
_SHARED_FIELDS: Final = ("filter", "collection")
# Parts of a query that must match the collection: the field's name, and the value that is compared with it.
_QUERY_PART: Final = re.compile(r"queries\[\d+\](\.among\[\d+\])?\.(field|text|dense|sparse|multi_vector|feedback)\b")


@dataclass(frozen=True)
class Candidates:
    """The candidates of one call of Retrieve."""

    rankings: tuple[Ranking, ...]
    """A ranking for each query."""
    documents: dict[str, Document]
    """Documents of the rankings, by id."""
    collection_version: int
    coverage: float
    """Share of the documents that were compared, over all queries; below 1 only if time ran out."""


class RetrievalClient:
    """Calls the retrieval service and checks its responses. Raises BackendFailed for a response that is invalid."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = RetrievalServiceStub(channel)
        self._downstream = downstream

    async def retrieve(
        self,
        collection: str,
        queries: Sequence[FieldQuery],
        *,
        only: Filter | None,
        deadline: Deadline,
        ids_only: bool = False,
    ) -> Candidates:
        """Return the candidates of each query, with their documents or only with the ids."""
        queries = list(queries)
        view = pb.DOCUMENT_VIEW_ID if ids_only else pb.DOCUMENT_VIEW_FULL
        request = pb.RetrieveRequest(collection=collection, queries=queries, filter=only, view=view)
        try:
            response = await self._downstream.call(self._stub.Retrieve, request, deadline, patient=True)
        except InvalidRequest as error:
            raise _retrieve_error(error, queries) from None
        return _candidates(response, queries)

    async def collection(self, name: str, deadline: Deadline) -> Collection:
        """Return a collection. Raises NotFound."""
        request = pb.GetCollectionRequest(name=name)
        return (await self._downstream.call(self._stub.GetCollection, request, deadline, patient=True)).collection

    async def create(self, name: str, schema: pb.Schema, deadline: Deadline) -> Collection:
        """Create a collection, or return the existing one with the same schema.

        Raises AlreadyExists if the name is taken by another schema, InvalidRequest for an invalid schema.
        """
        request = pb.CreateCollectionRequest(name=name, schema=schema)
        try:
            response = await self._downstream.call(self._stub.CreateCollection, request, deadline, patient=True)
        except InvalidRequest as error:
            raise _schema_error(error) from None
        return response.collection

    async def content_hashes(self, collection: str, ids: Sequence[str], deadline: Deadline) -> dict[str, str]:
        """Return the content hash of each document that is stored, by id."""
        view = pb.DOCUMENT_VIEW_ID
        request = pb.GetDocumentsRequest(collection=collection, document_ids=ids, view=view)
        response = await self._downstream.call(self._stub.GetDocuments, request, deadline, patient=True)
        if len(response.content_hashes) != len(response.documents):
            raise BackendFailed("retrieval: expected a content hash for each document")
        stored = (document.document_id for document in response.documents)
        return dict(zip(stored, response.content_hashes, strict=True))

    async def upsert(
        self,
        collection: str,
        documents: Sequence[Document],
        vectors: Sequence[FieldVectors],
        *,
        content_hashes: Sequence[str],
        deadline: Deadline,
    ) -> None:
        """Store documents with their vectors. They are on disk when this returns."""
        request = pb.UpsertRequest(collection=collection, documents=documents, content_hashes=content_hashes)
        for one in vectors:
            given: dict[str, Any] = {"field": one.field, "model_digest": one.batch.model.digest}
            if one.kind == "dense":
                request.dense.add(vectors=one.batch.dense, **given)
            elif one.kind == "sparse":
                request.sparse.add(vectors=one.batch.sparse, **given)
            else:
                request.multi_vectors.add(vectors=one.batch.multi_vector, **given)
        await self._downstream.call(self._stub.Upsert, request, deadline, patient=True)

    async def count(self, collection: str, only: Filter, deadline: Deadline) -> int:
        """Return the number of documents that match."""
        request = pb.CountDocumentsRequest(collection=collection, filter=only)
        response = await self._downstream.call(self._stub.CountDocuments, request, deadline, patient=True)
        return response.document_count

    async def delete(self, collection: str, ids: Sequence[str], only: Filter | None, deadline: Deadline) -> int:
        """Delete documents by ids or by a filter, and return their number."""
        request = pb.DeleteDocumentsRequest(collection=collection, document_ids=ids, filter=only)
        response = await self._downstream.call(self._stub.DeleteDocuments, request, deadline, patient=True)
        return response.deleted_count


def _candidates(response: pb.RetrieveResponse, queries: Sequence[FieldQuery]) -> Candidates:
    """Return the candidates of a response. Raises BackendFailed if the response breaks its contract."""
    if len(response.rankings) != len(queries):
        given = len(response.rankings)
        raise BackendFailed(f"retrieval: expected a ranking for each of {len(queries)} queries, got {given}")
    documents = {document.document_id: document for document in response.documents}
    for query, ranking in zip(queries, response.rankings, strict=True):
        if len(ranking.document_ids) > query.depth or not documents.keys() >= set(ranking.document_ids):
            raise BackendFailed(f"retrieval: expected up to {query.depth} candidates with their documents, got others")
    try:
        rankings = tuple(Ranking.of(zip(r.document_ids, r.scores, strict=True)) for r in response.rankings)
    except ValueError as error:
        raise BackendFailed(f"retrieval: {error}") from error
    shares = [ranking.coverage for ranking in response.rankings]
    if not all(0 <= share <= 1 for share in shares):
        raise BackendFailed(f"retrieval: expected coverages from 0 to 1, got {shares}")
    return Candidates(rankings, documents, response.collection_version, sum(shares) / len(shares))


def _schema_error(error: InvalidRequest) -> InvalidRequest:
    """Return the error with the violations named by the fields of an index request."""
    violations = [
        Violation(violation.field.replace("schema.metadata_fields", "filterable_fields"), violation.description)
        for violation in error.violations
    ]
    return InvalidRequest(error.message, violations=violations, metadata=error.metadata)


def _retrieve_error(
    error: InvalidRequest, queries: Sequence[FieldQuery]
) -> InvalidRequest | PreconditionFailed | BackendFailed:
    """Return the error for the caller of a search.

    InvalidRequest if every violation names a field of the search request. PreconditionFailed if the collection lacks a
    field of that name and kind, because it changed since the search was planned. Otherwise BackendFailed, because the
    orchestrator built the rest of the request.
    """
    fields = [violation.field for violation in error.violations]
    if fields and all(field.startswith(_SHARED_FIELDS) for field in fields):
        return error
    is_about_queries = all(field.startswith(_SHARED_FIELDS) or _QUERY_PART.match(field) for field in fields)
    if fields and is_about_queries and all(map(is_sound, queries)):
        reason = ErrorReason.ERROR_REASON_COLLECTION_MISMATCH
        return PreconditionFailed(
            f"the collection no longer has the fields that the search was planned for: {error.message}", reason=reason
        )
    return BackendFailed(error.message, metadata=error.metadata)
