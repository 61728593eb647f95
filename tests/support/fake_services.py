"""Fakes of the three services behind an orchestrator: small real servers with exact arithmetic and no models.

    HashingEmbedder    words hashed into 64 dimensions, unit length; also as terms, and one vector per word
    ExactRetrieval     collections in memory, cosine of all documents
    OverlapReranker    share of the query's words that a document has

Tests add faults: `before` runs before every call and may raise, wait or hang; `alter` changes every response.
"""

import asyncio
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.model_pb2 import ModelRef, TextUsage
from sluice.common.v1.tensor_pb2 import MultiVectors, SparseVectors
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    add_EmbeddingServiceServicer_to_server,
)
from sluice.errors import AlreadyExists, NotFound, PreconditionFailed
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.reranking.v1.reranking_service_pb2_grpc import (
    RerankingServiceServicer,
    add_RerankingServiceServicer_to_server,
)
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import (
    RetrievalServiceServicer,
    add_RetrievalServiceServicer_to_server,
)
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

from services.orchestrator.server import build
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.server.lifecycle import Service, serving
from services.rpc.settings import ServerSettings
from services.rpc.tensor import to_tensor
from services.rpc.validation import validating

if TYPE_CHECKING:
    from sluice.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub

    # For the type checker, which would ask for every method; those that are left out answer UNIMPLEMENTED.
    EmbeddingBase = object
    RetrievalBase = object
    RerankingBase = object
else:
    EmbeddingBase = EmbeddingServiceServicer
    RetrievalBase = RetrievalServiceServicer
    RerankingBase = RerankingServiceServicer

DIMENSIONS: Final = 64
# With a reranker in the default one, which the packaged pipelines have not.
PIPELINES: Final = Path(__file__).with_name("pipelines.yaml")
Before = Callable[[str], Awaitable[None]]


async def _nothing(method: str) -> None:
    """Cause no fault."""


@dataclass
class FakeService:
    """Features of all fakes."""

    before: Before = _nothing
    """Runs before every call, with the method's name."""
    alter: Callable[[Any], Any] = lambda response: response
    """Changes every response."""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    """Every received call: method and request."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a running call was cancelled."""

    async def receive(self, method: str, request: Any) -> None:
        """Record a call and run `before`."""
        self.calls.append((method, request))
        try:
            await self.before(method)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def count(self, method: str) -> int:
        """Return the number of calls of a method."""
        return sum(name == method for name, _ in self.calls)


def words(text: str) -> list[str]:
    return "".join(c.lower() if c.isalnum() else " " for c in text).split()


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the hashed words as float32 [64], unit length."""
    sums = np.zeros(DIMENSIONS, dtype=np.float32)
    for word in words(text):
        sums[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    sums[0] += 1e-3
    unit: np.ndarray[Any, np.dtype[np.float32]] = sums / np.linalg.norm(sums)
    return unit


def check_texts(texts: Sequence[str]) -> None:
    """Reject blank texts, as the embedding service does."""
    with validating() as violations:
        for position, text in enumerate(texts):
            violations.text(f"texts[{position}]", text, max_bytes=65_536)


def sparse_vectors(texts: Sequence[str]) -> SparseVectors:
    """Return counts of hashed words."""
    counts = [Counter(zlib.crc32(word.encode()) % 10_000 for word in words(text)) for text in texts]
    terms = [sorted(count.items()) for count in counts]
    return SparseVectors(
        indices=to_tensor(np.array([term for text in terms for term, _ in text], dtype=np.int32)),
        weights=to_tensor(np.array([weight for text in terms for _, weight in text], dtype=np.float32)),
        term_counts=[len(text) for text in terms],
    )


def multi_vectors(texts: Sequence[str]) -> MultiVectors:
    """Return the vector of each word."""
    tokens = [[vector(word) for word in words(text)] for text in texts]
    return MultiVectors(
        tokens=to_tensor(np.stack([token for text in tokens for token in text])),
        token_counts=[len(text) for text in tokens],
    )


@dataclass
class HashingEmbedder(FakeService, EmbeddingBase):
    """One dense model named `hashing`, or several with other names and the same vectors."""

    digest: str = "d" * 64
    names: tuple[str, ...] = ("hashing",)
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of models with a different one, by name."""
    representations: tuple[embedding_pb.Representation.ValueType, ...] = (
        embedding_pb.REPRESENTATION_DENSE,
        embedding_pb.REPRESENTATION_SPARSE,
        embedding_pb.REPRESENTATION_MULTI_VECTOR,
    )

    def ref(self, name: str) -> ModelRef:
        return ModelRef(name=name, version="1", digest=self.digests.get(name, self.digest))

    async def Embed(self, request: Any, context: Any) -> Any:
        await self.receive("Embed", request)
        check_texts(request.texts)
        if request.model and request.model not in self.names:
            reason = ErrorReason.ERROR_REASON_UNKNOWN_MODEL
            raise NotFound(f"expected a model of {self.names}, got {request.model!r}", reason=reason)
        model = self.ref(request.model or self.names[0])
        usage = [TextUsage(token_count=len(words(text))) for text in request.texts]
        response = embedding_pb.EmbedResponse(model=model, usage=usage)
        if embedding_pb.REPRESENTATION_DENSE in request.representations:
            response.dense.CopyFrom(to_tensor(np.stack([vector(text) for text in request.texts])))
        if embedding_pb.REPRESENTATION_SPARSE in request.representations:
            response.sparse.CopyFrom(sparse_vectors(request.texts))
        if embedding_pb.REPRESENTATION_MULTI_VECTOR in request.representations:
            response.multi_vector.CopyFrom(multi_vectors(request.texts))
        return self.alter(response)

    async def ListModels(self, request: Any, context: Any) -> Any:
        await self.receive("ListModels", request)
        models = [
            embedding_pb.EmbeddingModel(
                model=self.ref(name),
                representations=self.representations,
                dimensions=DIMENSIONS,
                max_token_count=256,
                similarity="cosine",
            )
            for name in self.names
        ]
        return embedding_pb.ListModelsResponse(models=models)

    async def Tokenize(self, request: Any, context: Any) -> Any:
        """Words are tokens."""
        await self.receive("Tokenize", request)
        check_texts(request.texts)
        texts = []
        for text in request.texts:
            spans = [match.span() for match in re.finditer(r"\w+", text)]
            tokens = [embedding_pb.Token(char_start=start, char_end=end) for start, end in spans]
            texts.append(embedding_pb.TokenizedText(tokens=tokens))
        return embedding_pb.TokenizeResponse(texts=texts)


@dataclass
class Stored:
    """A collection in memory."""

    schema: retrieval_pb.Schema
    documents: dict[str, Document] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict)
    version: int = 0


@dataclass
class ExactRetrieval(FakeService, RetrievalBase):
    """Collections in memory, without filters."""

    collections: dict[str, Stored] = field(default_factory=dict)

    def stored(self, name: str) -> Stored:
        if name not in self.collections:
            reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
            raise NotFound(f"expected a collection, got {name!r}", reason=reason)
        return self.collections[name]

    def described(self, name: str) -> retrieval_pb.Collection:
        stored = self.stored(name)
        return retrieval_pb.Collection(
            name=name, schema=stored.schema, document_count=len(stored.documents), version=stored.version
        )

    async def CreateCollection(self, request: Any, context: Any) -> Any:
        await self.receive("CreateCollection", request)
        there = self.collections.setdefault(request.name, Stored(request.schema))
        if there.schema != request.schema:
            raise AlreadyExists(f"collection {request.name!r} has another schema")
        return retrieval_pb.CreateCollectionResponse(collection=self.described(request.name))

    async def GetCollection(self, request: Any, context: Any) -> Any:
        await self.receive("GetCollection", request)
        return retrieval_pb.GetCollectionResponse(collection=self.described(request.name))

    async def ListCollections(self, request: Any, context: Any) -> Any:
        await self.receive("ListCollections", request)
        return retrieval_pb.ListCollectionsResponse(collections=[self.described(name) for name in self.collections])

    async def Upsert(self, request: Any, context: Any) -> Any:
        await self.receive("Upsert", request)
        stored = self.stored(request.collection)
        assert len({document.document_id for document in request.documents}) == len(request.documents)
        columns = {
            column.field: np.frombuffer(column.vectors.data, "<f4").reshape(column.vectors.shape)
            for column in request.dense
        }
        assert set(columns) == {dense.name for dense in stored.schema.dense_fields}
        for row, document in enumerate(request.documents):
            stored.documents[document.document_id] = document
            stored.hashes[document.document_id] = request.content_hashes[row]
            stored.vectors[document.document_id] = {name: rows[row] for name, rows in columns.items()}
        stored.version += 1
        return self.alter(retrieval_pb.UpsertResponse(version=stored.version))

    async def DeleteDocuments(self, request: Any, context: Any) -> Any:
        await self.receive("DeleteDocuments", request)
        stored = self.stored(request.collection)
        deleted = [stored.documents.pop(id_, None) for id_ in request.document_ids]
        stored.version += 1
        count = sum(document is not None for document in deleted)
        return retrieval_pb.DeleteDocumentsResponse(deleted_count=count, version=stored.version)

    async def GetDocuments(self, request: Any, context: Any) -> Any:
        await self.receive("GetDocuments", request)
        stored = self.stored(request.collection)
        ids = [id_ for id_ in request.document_ids if id_ in stored.documents]
        return retrieval_pb.GetDocumentsResponse(
            documents=[Document(document_id=id_) for id_ in ids], content_hashes=[stored.hashes[id_] for id_ in ids]
        )

    async def Retrieve(self, request: Any, context: Any) -> Any:
        await self.receive("Retrieve", request)
        stored = self.stored(request.collection)
        rankings = [self.ranked(stored, query) for query in request.queries]
        found = sorted({id_ for ranking in rankings for id_ in ranking.document_ids})
        response = retrieval_pb.RetrieveResponse(
            rankings=rankings,
            documents=[stored.documents[id_] for id_ in found],
            collection_version=stored.version,
        )
        return self.alter(response)

    def ranked(self, stored: Stored, query: Any) -> retrieval_pb.Ranking:
        name = query.field or stored.schema.dense_fields[0].name
        bound = {dense.name: dense.model_digest for dense in stored.schema.dense_fields}[name]
        if bound and query.model_digest and bound != query.model_digest:
            reason = ErrorReason.ERROR_REASON_MODEL_MISMATCH
            raise PreconditionFailed(f"expected vectors of {bound}, got {query.model_digest}", reason=reason)
        wanted = np.frombuffer(query.dense.data, "<f4")
        scored = [(float(np.float32(stored.vectors[id_][name] @ wanted)), id_) for id_ in stored.documents]
        best = sorted(scored, key=lambda item: (-item[0], item[1]))[: query.depth]
        ids, scores = [id_ for _, id_ in best], [score for score, _ in best]
        return retrieval_pb.Ranking(document_ids=ids, scores=scores, coverage=1)


@dataclass
class OverlapReranker(FakeService, RerankingBase):
    """Scores by shared words."""

    model: ModelRef = field(default_factory=lambda: ModelRef(name="overlap", version="1", digest="e" * 64))

    async def Rerank(self, request: Any, context: Any) -> Any:
        await self.receive("Rerank", request)
        wanted = set(words(request.query))
        results = [
            reranking_pb.ScoredDocument(index=index, score=len(wanted & set(words(text))) / len(wanted))
            for index, text in enumerate(request.documents)
        ]
        return self.alter(reranking_pb.RerankResponse(model=self.model, results=results))

    async def ListModels(self, request: Any, context: Any) -> Any:
        await self.receive("ListModels", request)
        return reranking_pb.ListModelsResponse(models=[reranking_pb.RerankingModel(model=self.model)])


@dataclass
class System:
    """An orchestrator over fakes."""

    search: "SearchServiceAsyncStub"
    channel: grpc.aio.Channel
    embedder: HashingEmbedder
    retrieval: ExactRetrieval
    reranker: OverlapReranker


@asynccontextmanager
async def running(servicer: Any, name: str, add: Callable[[Any, Any], None], **settings: Any) -> AsyncIterator[str]:
    """Serve a servicer on a free port, and yield its address."""

    @asynccontextmanager
    async def build() -> AsyncIterator[Sequence[Service]]:
        yield [Service(name, lambda server: add(servicer, server))]

    async with serving(ServerSettings(**{"drain_grace_s": 0.0, **settings}), build) as server:
        yield server.address


def embedding_server(servicer: HashingEmbedder, **settings: Any) -> Any:
    return running(servicer, "sluice.embedding.v1.EmbeddingService", add_EmbeddingServiceServicer_to_server, **settings)


def retrieval_server(servicer: ExactRetrieval, **settings: Any) -> Any:
    return running(servicer, "sluice.retrieval.v1.RetrievalService", add_RetrievalServiceServicer_to_server, **settings)


def reranking_server(servicer: OverlapReranker, **settings: Any) -> Any:
    return running(servicer, "sluice.reranking.v1.RerankingService", add_RerankingServiceServicer_to_server, **settings)


@asynccontextmanager
async def system(pipelines: Path | None = None, **settings: Any) -> AsyncIterator[System]:
    """Run an orchestrator over fakes; `settings` are the orchestrator's."""
    embedder, retrieval, reranker = HashingEmbedder(), ExactRetrieval(), OverlapReranker()
    async with (
        embedding_server(embedder) as embedding_address,
        retrieval_server(retrieval) as retrieval_address,
        reranking_server(reranker) as reranking_address,
    ):
        given: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "embedding": embedding_address,
            "retrieval": retrieval_address,
            "reranking": reranking_address,
            "drain_grace_s": 0.0,
            "pipelines": pipelines or PIPELINES,
            **settings,
        }
        async with orchestrator(**given) as (search, channel):
            yield System(search, channel, embedder, retrieval, reranker)


@asynccontextmanager
async def orchestrator(
    *, credentials: grpc.ChannelCredentials | None = None, **settings: Any
) -> AsyncIterator[tuple["SearchServiceAsyncStub", grpc.aio.Channel]]:
    """Run an orchestrator, and yield a client of it, over TLS if there are credentials."""
    built = OrchestratorSettings(**settings)
    async with (
        serving(built, lambda: build(built)) as server,
        grpc.aio.secure_channel(server.address, credentials)
        if credentials
        else grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield SearchServiceStub(channel), channel


async def index(system: System, documents: Sequence[Document], collection: str = "books", **first: Any) -> list[Any]:
    """Index documents in one message, and return the acknowledgements."""

    async def requests() -> AsyncIterator[pb.IndexRequest]:
        yield pb.IndexRequest(collection=collection, documents=documents, **{"create_collection": True, **first})

    return [known async for response in system.search.Index(requests()) for known in response.acknowledgements]
