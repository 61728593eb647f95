"""The three services as the orchestrator sees them: a request built, the answer checked, errors as they were raised.

Rule: with `queries.py` and `schemas.py` the only place here that knows the protos of other services. Documents,
filters and tensors pass as they came.
An answer that breaks its contract (wrong count, NaN, foreign ids) is BackendFailed, never passed on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import grpc
from sluice.common.v1 import model_pb2
from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.filter_pb2 import Filter
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import BackendFailed, InvalidRequest, PreconditionFailed, Violation
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.core.ranking import Ranking
from services.orchestrator.queries import FieldQuery, is_sound
from services.orchestrator.schemas import REPRESENTATIONS, Collection, EmbeddingModel
from services.orchestrator.vectors import Embedded, Kind, Model
from services.rpc.client.downstream import Downstream
from services.rpc.deadline import Deadline

RerankingModel = reranking_pb.RerankingModel

# Fields of other services' requests that mean the same to our caller.
_SHARED_FIELDS: Final = ("filter", "collection")
# What of a query has to fit the field: its name, and what is compared with it.
_QUERY_PART: Final = re.compile(r"queries\[\d+\](\.among\[\d+\])?\.(field|text|dense|sparse|multi_vector|feedback)\b")


@dataclass(frozen=True)
class Candidates:
    """What one retriever found."""

    rankings: tuple[Ranking, ...]
    """One a query."""
    documents: dict[str, Document]
    """The documents of the rankings by id."""
    collection_version: int
    coverage: float
    """Share of the documents that were looked at, over all queries; 1 unless time ended before."""


@dataclass(frozen=True)
class Column:
    """Vectors for one field of a collection, in the order of the documents."""

    field: str
    kind: Kind
    embedded: Embedded

    def part(self, start: int, end: int) -> "Column":
        """Return the vectors of the documents from `start` up to, and without, `end`."""
        return Column(self.field, self.kind, self.embedded.part(start, end))


class Embedding:
    """The embedding service."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = EmbeddingServiceStub(channel)
        self._downstream = downstream

    async def embed_queries(
        self, texts: Sequence[str], *, model: str, kinds: Sequence[Kind], deadline: Deadline, patient: bool
    ) -> Embedded:
        """The vectors of queries. `patient` waits for a service that is away."""
        request = embedding_pb.EmbedRequest(
            model=model, texts=texts, role=model_pb2.TEXT_ROLE_QUERY, lane=model_pb2.LANE_INTERACTIVE
        )
        try:
            return await self._embed(request, kinds, deadline, patient=patient)
        except InvalidRequest as error:
            raise _of_queries(error) from None

    async def embed_documents(
        self, texts: Sequence[str], *, model: str, kinds: Sequence[Kind], deadline: Deadline
    ) -> Embedded:
        """The vectors of documents, in the bulk lane."""
        request = embedding_pb.EmbedRequest(
            model=model, texts=texts, role=model_pb2.TEXT_ROLE_DOCUMENT, lane=model_pb2.LANE_BULK
        )
        return await self._embed(request, kinds, deadline, patient=True)

    async def models(self, deadline: Deadline, *, patient: bool = True) -> list[EmbeddingModel]:
        """The models served there, by name."""
        request = embedding_pb.ListModelsRequest()
        response = await self._downstream.call(self._stub.ListModels, request, deadline, patient=patient)
        return list(response.models)

    async def token_spans(
        self, texts: Sequence[str], *, model: str, deadline: Deadline, as_document: bool = False
    ) -> list[list[tuple[int, int]]]:
        """Where the tokens of each text begin and end, in characters.

        as_document  with the special tokens and the prompt that a document gets
        """
        role = model_pb2.TEXT_ROLE_DOCUMENT if as_document else model_pb2.TEXT_ROLE_UNSPECIFIED
        request = embedding_pb.TokenizeRequest(model=model, texts=texts, role=role, add_special_tokens=as_document)
        response = await self._downstream.call(self._stub.Tokenize, request, deadline, patient=True)
        if len(response.texts) != len(texts):
            raise BackendFailed(f"embedding: expected tokens of {len(texts)} texts, got {len(response.texts)}")
        return [[(token.char_start, token.char_end) for token in text.tokens] for text in response.texts]

    async def _embed(
        self, request: embedding_pb.EmbedRequest, kinds: Sequence[Kind], deadline: Deadline, *, patient: bool
    ) -> Embedded:
        request.representations.extend(REPRESENTATIONS[kind] for kind in kinds)
        got = await self._downstream.call(self._stub.Embed, request, deadline, patient=patient)
        return Embedded(len(request.texts), tuple(kinds), got.model, got.dense, got.sparse, got.multi_vector)


class Reranking:
    """The reranking service."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = RerankingServiceStub(channel)
        self._downstream = downstream

    async def score(
        self, query: str, texts: Sequence[str], *, model: str, deadline: Deadline, patient: bool
    ) -> tuple[list[float], Model]:
        """One score a text, in their order, and the model that gave them."""
        request = reranking_pb.RerankRequest(
            model=model, query=query, documents=texts, order=reranking_pb.ORDER_REQUEST, raw_scores=True
        )
        response = await self._downstream.call(self._stub.Rerank, request, deadline, patient=patient)
        scores = [result.score for result in response.results]
        if [result.index for result in response.results] != list(range(len(texts))):
            raise BackendFailed(f"reranking: expected a score for each of {len(texts)} texts, got {len(scores)}")
        if not all(map(isfinite, scores)):
            raise BackendFailed("reranking: expected finite scores, got NaN or infinity")
        return scores, response.model

    async def models(self, deadline: Deadline, *, patient: bool = True) -> list[RerankingModel]:
        """The models served there, by name."""
        request = reranking_pb.ListModelsRequest()
        response = await self._downstream.call(self._stub.ListModels, request, deadline, patient=patient)
        return list(response.models)


class Retrieval:
    """The retrieval service."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = RetrievalServiceStub(channel)
        self._downstream = downstream

    async def retrieve(
        self,
        collection: str,
        wanted: Sequence[FieldQuery],
        *,
        only: Filter | None,
        deadline: Deadline,
        ids_only: bool = False,
    ) -> Candidates:
        """What is nearest to each query, with the documents, or only their ids."""
        queries = list(wanted)
        view = retrieval_pb.DOCUMENT_VIEW_ID if ids_only else retrieval_pb.DOCUMENT_VIEW_FULL
        request = retrieval_pb.RetrieveRequest(collection=collection, queries=queries, filter=only, view=view)
        try:
            response = await self._downstream.call(self._stub.Retrieve, request, deadline, patient=True)
        except InvalidRequest as error:
            raise _of_retrieve(error, queries) from None
        return _candidates(response, queries)

    async def collection(self, name: str, deadline: Deadline) -> Collection:
        """A collection. Raises NotFound."""
        request = retrieval_pb.GetCollectionRequest(name=name)
        return (await self._downstream.call(self._stub.GetCollection, request, deadline, patient=True)).collection

    async def create(self, name: str, schema: retrieval_pb.Schema, deadline: Deadline) -> Collection:
        """The created, or equal existing, collection.

        Raises AlreadyExists for another one of that name, InvalidRequest for fields that cannot be.
        """
        request = retrieval_pb.CreateCollectionRequest(name=name, schema=schema)
        try:
            response = await self._downstream.call(self._stub.CreateCollection, request, deadline, patient=True)
        except InvalidRequest as error:
            raise _of_filterable_fields(error) from None
        return response.collection

    async def content_hashes(self, collection: str, ids: Sequence[str], deadline: Deadline) -> dict[str, str]:
        """Content hashes of those documents that are stored, by id."""
        view = retrieval_pb.DOCUMENT_VIEW_ID
        request = retrieval_pb.GetDocumentsRequest(collection=collection, document_ids=ids, view=view)
        response = await self._downstream.call(self._stub.GetDocuments, request, deadline, patient=True)
        if len(response.content_hashes) != len(response.documents):
            raise BackendFailed("retrieval: expected a content hash for each document")
        stored = (document.document_id for document in response.documents)
        return dict(zip(stored, response.content_hashes, strict=True))

    async def upsert(
        self,
        collection: str,
        documents: Sequence[Document],
        columns: Sequence[Column],
        *,
        content_hashes: Sequence[str],
        deadline: Deadline,
    ) -> None:
        """Store documents with their vectors; they are on disk when this returns."""
        request = retrieval_pb.UpsertRequest(collection=collection, documents=documents, content_hashes=content_hashes)
        for column in columns:
            given: dict[str, Any] = {"field": column.field, "model_digest": column.embedded.model.digest}
            if column.kind == "dense":
                request.dense.add(vectors=column.embedded.dense, **given)
            elif column.kind == "sparse":
                request.sparse.add(vectors=column.embedded.sparse, **given)
            else:
                request.multi_vectors.add(vectors=column.embedded.multi_vector, **given)
        await self._downstream.call(self._stub.Upsert, request, deadline, patient=True)

    async def count(self, collection: str, only: Filter, deadline: Deadline) -> int:
        """How many documents match."""
        request = retrieval_pb.CountDocumentsRequest(collection=collection, filter=only)
        response = await self._downstream.call(self._stub.CountDocuments, request, deadline, patient=True)
        return response.document_count

    async def delete(self, collection: str, ids: Sequence[str], only: Filter | None, deadline: Deadline) -> int:
        """How many documents were deleted, by ids or by filter."""
        request = retrieval_pb.DeleteDocumentsRequest(collection=collection, document_ids=ids, filter=only)
        response = await self._downstream.call(self._stub.DeleteDocuments, request, deadline, patient=True)
        return response.deleted_count


@dataclass(frozen=True)
class Services:
    """All that a search or an index stream calls."""

    embedding: Embedding
    retrieval: Retrieval
    reranking: Reranking


def _candidates(response: retrieval_pb.RetrieveResponse, queries: Sequence[FieldQuery]) -> Candidates:
    """The checked answer. Raises BackendFailed."""
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
        raise BackendFailed(f"retrieval: expected coverages of 0 to 1, got {shares}")
    return Candidates(rankings, documents, response.collection_version, sum(shares) / len(shares))


def _of_filterable_fields(error: InvalidRequest) -> InvalidRequest:
    """What is wrong with a schema, by the names of our own request."""
    named = [
        Violation(violation.field.replace("schema.metadata_fields", "filterable_fields"), violation.description)
        for violation in error.violations
    ]
    return InvalidRequest(error.message, violations=named, metadata=error.metadata)


def _of_queries(error: InvalidRequest) -> InvalidRequest | PreconditionFailed | BackendFailed:
    """Return what the model refused: texts by the names of our own request, or vectors that it no longer gives."""
    named = []
    for violation in error.violations:
        if violation.field.startswith("representations"):
            return PreconditionFailed(error.message, reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH)
        match = re.fullmatch(r"texts\[(\d+)\]", violation.field)
        if match is None:
            return BackendFailed(error.message, metadata=error.metadata)
        position = int(match[1])
        named.append(Violation(f"more_queries[{position - 1}]" if position else "query", violation.description))
    return InvalidRequest(error.message, violations=named, metadata=error.metadata)


def _of_retrieve(
    error: InvalidRequest, queries: Sequence[FieldQuery]
) -> InvalidRequest | PreconditionFailed | BackendFailed:
    """Return whose fault a refused request is.

    The caller's, when all it names is what the caller wrote. The collection's, when it lacks a field of that name and
    kind: it is not the one that was looked at. Else ours: we built the rest of the request.
    """
    fields = [violation.field for violation in error.violations]
    if fields and all(field.startswith(_SHARED_FIELDS) for field in fields):
        return error
    is_of_queries = all(field.startswith(_SHARED_FIELDS) or _QUERY_PART.match(field) for field in fields)
    if fields and is_of_queries and all(map(is_sound, queries)):
        reason = ErrorReason.ERROR_REASON_COLLECTION_MISMATCH
        return PreconditionFailed(
            f"the collection does not have the fields that were planned for: {error.message}", reason=reason
        )
    return BackendFailed(error.message, metadata=error.metadata)
