"""EmbeddingService over gRPC: proto in, domain call, proto out."""

from typing import Final

import numpy as np
from sluice.common.v1 import model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    add_EmbeddingServiceServicer_to_server,
)

from services.embedding.encoder import Encoded, Role, Wish, encode
from services.embedding.settings import EmbeddingSettings
from services.model.bundle import Representation
from services.model.catalog import Catalog, model_ref
from services.model.loading import Model
from services.model.wire import schedule, truncation, usage
from services.rpc.interceptor import Context
from services.rpc.server import Service
from services.rpc.tensor import to_tensor
from services.rpc.validation import Violations, validating

_NAMES: Final[dict[pb.Representation.ValueType, Representation]] = {
    pb.REPRESENTATION_DENSE: "dense",
    pb.REPRESENTATION_SPARSE: "sparse",
    pb.REPRESENTATION_MULTI_VECTOR: "multi_vector",
}
_NUMBERS: Final = {name: number for number, name in _NAMES.items()}


class EmbeddingServicer(EmbeddingServiceServicer):
    """Serves the models of a catalog."""

    def __init__(self, catalog: Catalog, settings: EmbeddingSettings) -> None:
        self._catalog = catalog
        self._settings = settings

    @property
    def service(self) -> Service:
        """This servicer, for a server."""
        name = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
        return Service(name, lambda server: add_EmbeddingServiceServicer_to_server(self, server))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embed texts."""
        model = self._catalog.get(request.model)
        wish = self._validated(request, model)
        when = schedule(request.lane, context, max_s=self._settings.max_deadline_s)
        encoded = await encode(model, list(request.texts), wish, when)
        return _response(model, encoded)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the models."""
        return pb.ListModelsResponse(models=[_described(model) for model in self._catalog.models])

    def _validated(self, request: pb.EmbedRequest, model: Model) -> Wish:
        """How to encode, when the request keeps every rule; else raises InvalidRequest."""
        with validating() as violations:
            violations.count("texts", len(request.texts), low=1, high=self._settings.max_texts, what="texts")
            for position, text in enumerate(request.texts):
                violations.text(f"texts[{position}]", text, max_bytes=self._settings.max_text_bytes)
            wanted = _wanted(request, model, violations)
            manifest = model.bundle.manifest
            if request.role == model_pb2.TEXT_ROLE_UNSPECIFIED and manifest.query_prompt != manifest.document_prompt:
                violations.add("role", f"expected QUERY or DOCUMENT, which differ for {model.name}, got none")
        role: Role = "query" if request.role == model_pb2.TEXT_ROLE_QUERY else "document"
        return Wish(role, wanted, truncation(request.truncation))


def _wanted(request: pb.EmbedRequest, model: Model, violations: Violations) -> frozenset[Representation]:
    available = model.bundle.manifest.representations
    names: set[Representation] = set()
    for position, number in enumerate(request.representations or [pb.REPRESENTATION_DENSE]):
        name = _NAMES.get(number)
        if name is None or name not in available:
            given = name or f"number {number}"
            violations.add(f"representations[{position}]", f"expected one of {', '.join(available)}, got {given}")
        else:
            names.add(name)
    return frozenset(names)


def _response(model: Model, encoded: Encoded) -> pb.EmbedResponse:
    response = pb.EmbedResponse(model=model_ref(model), usage=map(usage, encoded.inputs))
    if encoded.dense:
        response.dense.CopyFrom(to_tensor(np.stack(encoded.dense)))
    if encoded.sparse:
        indices, weights = zip(*encoded.sparse, strict=True)
        response.sparse.CopyFrom(
            tensor_pb2.SparseVectors(
                indices=to_tensor(np.concatenate(indices)),
                weights=to_tensor(np.concatenate(weights)),
                term_counts=map(len, indices),
            )
        )
    if encoded.multi_vector:
        tokens = to_tensor(np.concatenate(encoded.multi_vector))
        counts = map(len, encoded.multi_vector)
        response.multi_vector.CopyFrom(tensor_pb2.MultiVectors(tokens=tokens, token_counts=counts))
    return response


def _described(model: Model) -> pb.EmbeddingModel:
    manifest = model.bundle.manifest
    return pb.EmbeddingModel(
        model=model_ref(model),
        representations=[_NUMBERS[name] for name in manifest.representations],
        dimensions=manifest.dimensions,
        max_token_count=manifest.max_token_count,
        similarity=manifest.similarity,
        query_prompt=manifest.query_prompt,
        document_prompt=manifest.document_prompt,
        execution_provider=model.session.execution_provider,
        variant=model.session.variant,
    )
