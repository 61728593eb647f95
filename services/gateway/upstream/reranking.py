"""Documents by relevance, for every shape."""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.common.v1 import model_pb2
from sluice.reranking.v1 import reranking_service_pb2 as pb

from services.gateway.upstream.caller import Caller


@dataclass(frozen=True)
class RerankInput:
    """What to rerank, and how."""

    model: str
    query: str
    documents: Sequence[str]
    top_n: int = 0
    """Only the best so many; 0, and more than there are, mean all."""
    raw_scores: bool = False
    truncation: model_pb2.Truncation.ValueType = model_pb2.TRUNCATION_END
    is_bulk: bool = False


async def rerank(caller: Caller, options: RerankInput) -> pb.RerankResponse:
    """The documents' scores, best first. Raises SluiceError."""
    caller.check_size("query", options.query)
    caller.check_sizes("documents", options.documents)
    request = pb.RerankRequest(
        model=options.model,
        query=options.query,
        documents=options.documents,
        top_k=min(options.top_n, len(options.documents)),
        raw_scores=options.raw_scores,
        truncation=options.truncation,
        lane=model_pb2.LANE_BULK if options.is_bulk else model_pb2.LANE_INTERACTIVE,
    )
    response: pb.RerankResponse = await caller.call(caller.upstream.reranking.Rerank, request)
    return response
