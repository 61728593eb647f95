"""RerankingService over gRPC: proto in, domain call, proto out."""

import numpy as np
from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import (
    RerankingServiceServicer,
    add_RerankingServiceServicer_to_server,
)

from services.inference.catalog import Catalog, model_ref
from services.inference.loader import Model
from services.inference.wire import schedule, truncation, usage
from services.reranking.scorer import RerankInput, Scores, score
from services.reranking.settings import RerankingSettings
from services.rpc.observability.metrics import SERIALIZE
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service
from services.rpc.validation import validating


class RerankingServicer(RerankingServiceServicer):
    """Serves the models of a catalog."""

    def __init__(self, catalog: Catalog, settings: RerankingSettings) -> None:
        self._catalog = catalog
        self._settings = settings

    @property
    def service(self) -> Service:
        """This servicer, for a server."""
        name = pb.DESCRIPTOR.services_by_name["RerankingService"].full_name
        return Service(
            name, lambda server: add_RerankingServiceServicer_to_server(self, server), problem=self._catalog.problem
        )

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Score documents."""
        with self._catalog.using(request.model) as model:
            rerank_input = self._validated(request)
            when = schedule(request.lane, context, max_s=self._settings.max_deadline_s)
            scores = await score(model, rerank_input, when)
            with SERIALIZE.labels(model.name).time():
                return _response(model, scores, request)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the models."""
        return pb.ListModelsResponse(models=map(_described, self._catalog.models))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        """Load a bundle of the repository."""
        return pb.LoadModelResponse(model=model_ref(await self._catalog.load(request.name, request.version)))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        """End a model."""
        await self._catalog.unload(request.name)
        return pb.UnloadModelResponse()

    def _validated(self, request: pb.RerankRequest) -> RerankInput:
        """What to score, when the request keeps every rule; else raises InvalidRequest."""
        most = self._settings.max_documents
        with validating() as violations:
            violations.text("query", request.query, max_bytes=self._settings.max_text_bytes)
            if violations.count("documents", len(request.documents), low=1, high=most, what="documents"):
                for position, text in enumerate(request.documents):
                    violations.text(f"documents[{position}]", text, max_bytes=self._settings.max_text_bytes)
            if not 0 <= request.top_k <= len(request.documents):
                description = f"expected 0 to {len(request.documents)}, the number of documents, got {request.top_k}"
                violations.add("top_k", description, expected_max=len(request.documents), given=request.top_k)
            if request.order not in pb.Order.values():
                violations.add("order", f"expected SCORE or REQUEST, got number {request.order}")
            if request.HasField("windows") and request.truncation:
                violations.add("truncation", "expected none beside windows, which drop nothing, got one")
            how = truncation(request.truncation, violations)
        overlap = request.windows.overlap_token_count if request.HasField("windows") else None
        return RerankInput(request.query, list(request.documents), how, request.raw_scores, overlap)


def _response(model: Model, scores: Scores, request: pb.RerankRequest) -> pb.RerankResponse:
    """The best `top_k` documents in the order that is asked for."""
    best = np.argsort(-scores.relevance, kind="stable")[: request.top_k or None]
    order = np.sort(best) if request.order == pb.ORDER_REQUEST else best
    results = [
        pb.ScoredDocument(
            index=index,
            score=scores.relevance[index],
            label_scores=() if scores.labels is None else scores.labels[index],
            usage=usage(scores.inputs[index]),
        )
        for index in order.tolist()
    ]
    return pb.RerankResponse(model=model_ref(model), results=results)


def _described(model: Model) -> pb.RerankingModel:
    manifest = model.bundle.manifest
    cross_encoder = manifest.task == "cross_encoder"
    return pb.RerankingModel(
        model=model_ref(model),
        scoring=pb.SCORING_CROSS_ENCODER if cross_encoder else pb.SCORING_LATE_INTERACTION,
        labels=manifest.labels,
        max_token_count=manifest.max_token_count,
        execution_provider=model.session.execution_provider,
        variant=model.session.variant,
    )
