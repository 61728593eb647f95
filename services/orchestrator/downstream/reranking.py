"""The client of the reranking service."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import BackendFailed, InvalidRequest, PreconditionFailed
from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub

from services.orchestrator.downstream.schemas import Windows
from services.orchestrator.downstream.vectors import Model
from services.rpc.client.downstream import Downstream
from services.rpc.deadline import Deadline

RerankingModel = pb.RerankingModel


@dataclass(frozen=True)
class TextScores:
    """The scores of N texts."""

    scores: list[float]
    """N scores, in the order of the texts."""
    model: Model
    """Model that computed them."""
    dropped: list[int]
    """Number of tokens of each text, or of each pair of query and text, that the model did not read."""
    dropped_of_query: int
    """The same for the query, if the model truncates it on its own."""


class RerankingClient:
    """Calls the reranking service and checks its responses. Raises BackendFailed for a response that is invalid."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = RerankingServiceStub(channel)
        self._downstream = downstream

    async def score(
        self,
        query: str,
        texts: Sequence[str],
        *,
        model: str,
        windows: Windows | None,
        deadline: Deadline,
        patient: bool,
    ) -> TextScores:
        """Return a score for each text.

        windows  how to read texts over the model's limit; None truncates them
        """
        request = pb.RerankRequest(
            model=model, query=query, documents=texts, order=pb.ORDER_REQUEST, raw_scores=True, windows=windows
        )
        try:
            response = await self._downstream.call(self._stub.Rerank, request, deadline, patient=patient)
        except InvalidRequest as error:
            raise _rerank_error(error) from None
        scores = [result.score for result in response.results]
        if [result.index for result in response.results] != list(range(len(texts))):
            raise BackendFailed(f"reranking: expected a score for each of {len(texts)} texts, got {len(scores)}")
        if not all(map(isfinite, scores)):
            raise BackendFailed("reranking: expected finite scores, got NaN or infinity")
        dropped = [result.usage.dropped_token_count for result in response.results]
        return TextScores(scores, response.model, dropped, response.query_usage.dropped_token_count)

    async def models(self, deadline: Deadline, *, patient: bool = True) -> list[RerankingModel]:
        """Return the models that the service serves, by name."""
        response = await self._downstream.call(self._stub.ListModels, pb.ListModelsRequest(), deadline, patient=patient)
        return list(response.models)


def _rerank_error(error: InvalidRequest) -> InvalidRequest | PreconditionFailed:
    """Return the error for the caller of a search.

    Windows come from the pipeline: if they do not fit the model, the error is PreconditionFailed.
    """
    if any(violation.field.startswith("windows") for violation in error.violations):
        return PreconditionFailed(
            f"{error.message}; lower the overlap in the pipeline", reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH
        )
    return error
