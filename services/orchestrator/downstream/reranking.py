"""The client of the reranking service."""

from collections.abc import Sequence
from math import isfinite

import grpc
from sluice.errors import BackendFailed
from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub

from services.orchestrator.downstream.vectors import Model
from services.rpc.client.downstream import Downstream
from services.rpc.deadline import Deadline

RerankingModel = pb.RerankingModel


class RerankingClient:
    """Calls the reranking service and checks its responses. Raises BackendFailed for a response that is invalid."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = RerankingServiceStub(channel)
        self._downstream = downstream

    async def score(
        self, query: str, texts: Sequence[str], *, model: str, deadline: Deadline, patient: bool
    ) -> tuple[list[float], Model]:
        """Return a score for each text, in the order of the texts, and the model that computed them."""
        request = pb.RerankRequest(model=model, query=query, documents=texts, order=pb.ORDER_REQUEST, raw_scores=True)
        response = await self._downstream.call(self._stub.Rerank, request, deadline, patient=patient)
        scores = [result.score for result in response.results]
        if [result.index for result in response.results] != list(range(len(texts))):
            raise BackendFailed(f"reranking: expected a score for each of {len(texts)} texts, got {len(scores)}")
        if not all(map(isfinite, scores)):
            raise BackendFailed("reranking: expected finite scores, got NaN or infinity")
        return scores, response.model

    async def models(self, deadline: Deadline, *, patient: bool = True) -> list[RerankingModel]:
        """Return the models that the service serves, by name."""
        response = await self._downstream.call(self._stub.ListModels, pb.ListModelsRequest(), deadline, patient=patient)
        return list(response.models)
