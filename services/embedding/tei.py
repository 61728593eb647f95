"""tei.v1.Embed: texts to vectors, for clients of text-embeddings-inference."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any, Final

from sluice.errors import PreconditionFailed
from sluice.tei.v1 import tei_service_pb2 as pb
from sluice.tei.v1.tei_service_pb2_grpc import EmbedServicer, add_EmbedServicer_to_server

from services.compat.tei.call import TeiBackend, role_of, spent, truncation_of
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
from services.rpc.server.offloading import offloaded
from services.rpc.validation import Violations, validating

# Making messages of 4,096 numbers takes about as long as a thread and back.
_INLINE_BYTES: Final = 2**14


def tei_services(catalog: Catalog, settings: EmbeddingSettings) -> Sequence[Service]:
    """The services of this API that an embedding server has."""
    backend = TeiBackend(catalog, settings, settings.max_texts)
    return [TeiInfo(backend, reranks=False).service, TeiEmbed(backend).service, TeiTokenize(backend).service]


class TeiEmbed(EmbedServicer):
    """Dense vectors, weighted terms and token vectors of single texts."""

    def __init__(self, backend: TeiBackend) -> None:
        self._backend = backend

    @property
    def service(self) -> Service:
        """This servicer, for a server."""
        name = "tei.v1.Embed"
        return Service(name, lambda server: add_EmbedServicer_to_server(self, server), reads=methods_of(name))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """The dense vector of a text."""
        return await self._backend.alone(self._dense, request, context)

    def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedRequest], context: Context
    ) -> AsyncIterator[pb.EmbedResponse]:
        """The same for a stream."""
        return self._backend.stream(request_iterator, self._dense, context)

    async def EmbedSparse(self, request: pb.EmbedSparseRequest, context: Context) -> pb.EmbedSparseResponse:
        """The weighted terms of a text."""
        return await self._backend.alone(self._sparse, request, context)

    def EmbedSparseStream(
        self, request_iterator: AsyncIterator[pb.EmbedSparseRequest], context: Context
    ) -> AsyncIterator[pb.EmbedSparseResponse]:
        """The same for a stream."""
        return self._backend.stream(request_iterator, self._sparse, context)

    async def EmbedAll(self, request: pb.EmbedAllRequest, context: Context) -> pb.EmbedAllResponse:
        """The vectors of a text's tokens."""
        return await self._backend.alone(self._all, request, context)

    def EmbedAllStream(
        self, request_iterator: AsyncIterator[pb.EmbedAllRequest], context: Context
    ) -> AsyncIterator[pb.EmbedAllResponse]:
        """The same for a stream."""
        return self._backend.stream(request_iterator, self._all, context)

    async def _dense(self, request: pb.EmbedRequest, context: Context, lane: Lane) -> pb.EmbedResponse:
        async with self._encoding(request, "dense", context, lane) as (model, encoded, metadata):
            vector = encoded.dense[0]
            if model.bundle.manifest.similarity != "cosine" and _wants_normalized(request):
                vector = unit(vector[None])[0]
            return pb.EmbedResponse(embeddings=vector.tolist(), metadata=metadata)

    async def _sparse(self, request: pb.EmbedSparseRequest, context: Context, lane: Lane) -> pb.EmbedSparseResponse:
        async with self._encoding(request, "sparse", context, lane) as (_, encoded, metadata):
            values = await offloaded(partial(_terms, encoded), size=encoded.byte_count, inline=_INLINE_BYTES)
            return pb.EmbedSparseResponse(sparse_embeddings=values, metadata=metadata)

    async def _all(self, request: pb.EmbedAllRequest, context: Context, lane: Lane) -> pb.EmbedAllResponse:
        async with self._encoding(request, "multi_vector", context, lane) as (_, encoded, metadata):
            tokens = await offloaded(partial(_tokens, encoded), size=encoded.byte_count, inline=_INLINE_BYTES)
            return pb.EmbedAllResponse(token_embeddings=tokens, metadata=metadata)

    @asynccontextmanager
    async def _encoding(
        self, request: Any, representation: Representation, context: Context, lane: Lane
    ) -> AsyncIterator[tuple[Model, Embeddings, pb.Metadata]]:
        """The model, what it made of a text, and what that took; in the block the response is made of it."""
        started = perf_counter()
        with self._backend.using(context) as model:
            options = self._validated(request, representation, model)
            when = self._backend.schedule(lane, context)
            encoded = await encode(model, [request.inputs], options, when, field="inputs")
            metadata = spent([request.inputs], encoded.inputs[0], when.times, started)
            with SERIALIZE.labels(model.name).time():
                yield model, encoded, metadata

    def _validated(self, request: Any, representation: Representation, model: Model) -> EncodeOptions:
        """How to encode. Raises InvalidRequest, and PreconditionFailed for what the model does not give."""
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
            raise PreconditionFailed(f"{model.name} gives {', '.join(given)}, not {representation}: use another call")
        return EncodeOptions(role, frozenset({representation}), truncation, dimensions=dimensions)


def _terms(encoded: Embeddings) -> list[pb.SparseValue]:
    indices, weights = encoded.sparse[0]
    terms = zip(indices.tolist(), weights.tolist(), strict=True)
    return [pb.SparseValue(index=index, value=value) for index, value in terms]


def _tokens(encoded: Embeddings) -> list[pb.TokenEmbedding]:
    return [pb.TokenEmbedding(embeddings=row.tolist()) for row in encoded.multi_vector[0]]


def _dimensions(request: pb.EmbedRequest, model: Model, violations: Violations) -> int:
    """The length that is wanted, 0 for all; one that the model does not have is noted."""
    if not request.HasField("dimensions"):
        return 0
    check_dimensions(request.dimensions or -1, model, violations)
    return request.dimensions


def _wants_normalized(request: pb.EmbedRequest) -> bool:
    return request.normalize if request.HasField("normalize") else True


def _check_normalize(request: pb.EmbedRequest, model: Model, violations: Violations) -> None:
    """Note it when the length of a vector is wanted that the model's graph has divided by."""
    if not _wants_normalized(request) and model.bundle.manifest.similarity == "cosine":
        description = f"expected true or none, got false: {model.name} gives vectors of unit length and no others"
        violations.add("normalize", description)
