"""Documents by relevance, for every shape."""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.common.v1 import model_pb2
from sluice.reranking.v1 import reranking_service_pb2 as pb

from services.gateway.upstream import Caller


@dataclass(frozen=True)
class Rerank:
    """What to rerank, and how."""

    model: str
    query: str
    documents: Sequence[str]
    top_n: int = 0
    """Only the best so many; 0, and more than there are, mean all."""
    raw_scores: bool = False
    truncation: model_pb2.Truncation.ValueType = model_pb2.TRUNCATION_END
    is_bulk: bool = False


async def rerank(caller: Caller, wish: Rerank) -> pb.RerankResponse:
    """The documents' scores, best first. Raises SluiceError."""
    caller.check_size("query", wish.query)
    caller.check_sizes("documents", wish.documents)
    request = pb.RerankRequest(
        model=wish.model,
        query=wish.query,
        documents=wish.documents,
        top_k=min(wish.top_n, len(wish.documents)),
        raw_scores=wish.raw_scores,
        truncation=wish.truncation,
        lane=model_pb2.LANE_BULK if wish.is_bulk else model_pb2.LANE_INTERACTIVE,
    )
    response: pb.RerankResponse = await caller.call(caller.upstream.reranking.Rerank, request)
    return response
