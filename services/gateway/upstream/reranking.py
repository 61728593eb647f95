"""Reranking of documents for all API dialects."""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.common.v1 import model_pb2
from sluice.reranking.v1 import reranking_service_pb2 as pb

from services.gateway.upstream.caller import Caller


@dataclass(frozen=True)
class RerankInput:
    """Documents to rerank, and how."""

    model: str
    query: str
    documents: Sequence[str]
    top_n: int = 0
    """Number of results. 0, or more than there are documents, returns all."""
    raw_scores: bool = False
    truncation: model_pb2.Truncation.ValueType = model_pb2.TRUNCATION_END
    is_bulk: bool = False


async def rerank(caller: Caller, given: RerankInput) -> pb.RerankResponse:
    """Return the scores of the documents, best first. Raises SluiceError."""
    caller.check_size("query", given.query)
    caller.check_sizes("documents", given.documents)
    request = pb.RerankRequest(
        model=given.model,
        query=given.query,
        documents=given.documents,
        top_k=min(given.top_n, len(given.documents)),
        raw_scores=given.raw_scores,
        truncation=given.truncation,
        lane=model_pb2.LANE_BULK if given.is_bulk else model_pb2.LANE_INTERACTIVE,
    )
    response: pb.RerankResponse = await caller.call(caller.upstream.reranking.Rerank, request)
    return response
