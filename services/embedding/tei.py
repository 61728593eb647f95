"""tei.v1.Embed: texts to vectors, for clients of text-embeddings-inference."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any, Final

from sluice.errors import PreconditionFailed
from sluice.tei.v1 import tei_service_pb2 as pb
from sluice.tei.v1.tei_service_pb2_grpc import EmbedServicer, add_EmbedServicer_to_server

from services.compat.tei.call import TeiBackend, role_of, timings_metadata, truncation_of
from services.compat.tei.info import TeiInfo
from services.compat.tei.tokenize import TeiTokenize
from services.core.similarity import unit
from services.embedding.encoder import Embeddings, EncodeOptions, encode
from services.embedding.settings import EmbeddingSettings
from services.embedding.wire import check_dimensions
from services.inference.bundle import Representation
from services.inference.catalog import Catalog
from services.inference.loader import Model
from services.inference.metrics import SERIALIZE
from services.inference.scheduler import Lane
from services.rpc.auth.authorizer import methods_of
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service
from services.rpc.server.offloading import offload
from services.rpc.validation import Violations, validating

# Making messages of 4,096 numbers takes about as long as a switch to a thread and back.
_INLINE_BYTES: Final = 2**14


def tei_services(catalog: Catalog, settings: EmbeddingSettings) -> Sequence[Service]:
    """Return the services of this API for an embedding server."""
    backend = TeiBackend(catalog, settings, settings.max_texts)
    return [TeiInfo(backend, reranks=False).service, TeiEmbed(backend).service, TeiTokenize(backend).service]


class TeiEmbed(EmbedServicer):
    """Dense vectors, weighted terms and token vectors of single texts."""

    def __init__(self, backend: TeiBackend) -> None:
        self._backend = backend

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = "tei.v1.Embed"
        return Service(name, lambda server: add_EmbedServicer_to_server(self, server), reads=methods_of(name))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Return the dense vector of a text."""
        return await self._backend.unary(self._dense, request, context)

    def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedRequest], context: Context
    ) -> AsyncIterator[pb.EmbedResponse]:
        """Yield the dense vector of each text."""
        return self._backend.stream(request_iterator, self._dense, context)

    async def EmbedSparse(self, request: pb.EmbedSparseRequest, context: Context) -> pb.EmbedSparseResponse:
        """Return the weighted terms of a text."""
        return await self._backend.unary(self._sparse, request, context)

    def EmbedSparseStream(
        self, request_iterator: AsyncIterator[pb.EmbedSparseRequest], context: Context
    ) -> AsyncIterator[pb.EmbedSparseResponse]:
        """Yield the weighted terms of each text."""
        return self._backend.stream(request_iterator, self._sparse, context)

    async def EmbedAll(self, request: pb.EmbedAllRequest, context: Context) -> pb.EmbedAllResponse:
        """Return the vectors of a text's tokens."""
        return await self._backend.unary(self._all, request, context)

    def EmbedAllStream(
        self, request_iterator: AsyncIterator[pb.EmbedAllRequest], context: Context
    ) -> AsyncIterator[pb.EmbedAllResponse]:
        """Yield the vectors of each text's tokens."""
        return self._backend.stream(request_iterator, self._all, context)

    async def _dense(self, request: pb.EmbedRequest, context: Context, lane: Lane) -> pb.EmbedResponse:
        async with self._encoding(request, "dense", context, lane) as (model, embeddings, metadata):
            vector = embeddings.dense[0]
            if model.bundle.manifest.similarity != "cosine" and _wants_normalized(request):
                vector = unit(vector[None])[0]
            return pb.EmbedResponse(embeddings=vector.tolist(), metadata=metadata)

    async def _sparse(self, request: pb.EmbedSparseRequest, context: Context, lane: Lane) -> pb.EmbedSparseResponse:
        async with self._encoding(request, "sparse", context, lane) as (_, embeddings, metadata):
            values = await offload(partial(_terms, embeddings), size=embeddings.byte_count, inline=_INLINE_BYTES)
            return pb.EmbedSparseResponse(sparse_embeddings=values, metadata=metadata)

    async def _all(self, request: pb.EmbedAllRequest, context: Context, lane: Lane) -> pb.EmbedAllResponse:
        async with self._encoding(request, "multi_vector", context, lane) as (_, embeddings, metadata):
            tokens = await offload(partial(_tokens, embeddings), size=embeddings.byte_count, inline=_INLINE_BYTES)
            return pb.EmbedAllResponse(token_embeddings=tokens, metadata=metadata)

    @asynccontextmanager
    async def _encoding(
        self, request: Any, representation: Representation, context: Context, lane: Lane
    ) -> AsyncIterator[tuple[Model, Embeddings, pb.Metadata]]:
        """Yield the model, the embedding of a text, and its timings. The block makes the response of them."""
        started = perf_counter()
        with self._backend.using(context) as model:
            options = self._validate(request, representation, model)
            when = self._backend.schedule(lane, context)
            embeddings = await encode(model, [request.inputs], options, when, field="inputs")
            metadata = timings_metadata([request.inputs], embeddings.inputs[0], when.times, started)
            with SERIALIZE.labels(model.name).time():
                yield model, embeddings, metadata

    def _validate(self, request: Any, representation: Representation, model: Model) -> EncodeOptions:
        """Return how to encode.

        Raises InvalidRequest, and PreconditionFailed for a representation that the model does not have.
        """
        with validating() as violations:
            self._backend.check_text("inputs", request.inputs, violations)
            role = role_of(request, violations)
            truncation = truncation_of(request.truncate, request.truncation_direction, violations)
            dimensions = 0
            if isinstance(request, pb.EmbedRequest):
                dimensions = _dimensions(request, model, violations)
                _check_normalize(request, model, violations)
        given = model.bundle.manifest.representations
        if representation not in given:
            raise PreconditionFailed(f"{model.name} returns {', '.join(given)}, not {representation}: use another call")
        return EncodeOptions(role, frozenset({representation}), truncation, dimensions=dimensions)


def _terms(embeddings: Embeddings) -> list[pb.SparseValue]:
    indices, weights = embeddings.sparse[0]
    terms = zip(indices.tolist(), weights.tolist(), strict=True)
    return [pb.SparseValue(index=index, value=value) for index, value in terms]


def _tokens(embeddings: Embeddings) -> list[pb.TokenEmbedding]:
    return [pb.TokenEmbedding(embeddings=row.tolist()) for row in embeddings.multi_vector[0]]


def _dimensions(request: pb.EmbedRequest, model: Model, violations: Violations) -> int:
    """Return the requested length, 0 for all; add a violation for a length that the model does not have."""
    if not request.HasField("dimensions"):
        return 0
    check_dimensions(request.dimensions or -1, model, violations)
    return request.dimensions


def _wants_normalized(request: pb.EmbedRequest) -> bool:
    return request.normalize if request.HasField("normalize") else True


def _check_normalize(request: pb.EmbedRequest, model: Model, violations: Violations) -> None:
    """Add a violation if vectors of their original length are requested but the model's graph normalizes them."""
    if not _wants_normalized(request) and model.bundle.manifest.similarity == "cosine":
        description = f"expected true or none, got false: {model.name} only has vectors of unit length"
        violations.add("normalize", description)
