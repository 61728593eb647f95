"""Clients of the reranking service."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from sluice.client.calls import AsyncClient, Client
from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub

if TYPE_CHECKING:
    from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceAsyncStub


class RerankingClient(Client):
    """A client of the reranking service, which scores documents against a query."""

    # Generated from AsyncRerankingClient by protos/unasync.py; do not edit.

    @cached_property
    def _stub(self) -> RerankingServiceStub:
        return RerankingServiceStub(self._channel)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str = "",
        top_k: int = 0,
        raw_scores: bool = False,
        timeout_s: float | None = None,
    ) -> list[pb.ScoredDocument]:
        """Return the scores of documents, best first; `index` is the position in `documents`. Raises SluiceError.

        top_k       number of results; 0 means all
        raw_scores  return logits in place of probabilities
        """
        request = _request(query, documents, model, top_k, raw_scores)
        return list(self._call(self._stub.Rerank, request, timeout_s).results)

    def models(self, *, timeout_s: float | None = None) -> list[pb.RerankingModel]:
        """Return the served models, by name. Raises SluiceError."""
        return list(self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s).models)

    # End of the generated code.


class AsyncRerankingClient(AsyncClient):
    """`RerankingClient` for asyncio."""

    @cached_property
    def _stub(self) -> "RerankingServiceAsyncStub":
        return RerankingServiceStub(self._channel)

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str = "",
        top_k: int = 0,
        raw_scores: bool = False,
        timeout_s: float | None = None,
    ) -> list[pb.ScoredDocument]:
        """Return the scores of documents, best first; `index` is the position in `documents`. Raises SluiceError.

        top_k       number of results; 0 means all
        raw_scores  return logits in place of probabilities
        """
        request = _request(query, documents, model, top_k, raw_scores)
        return list((await self._call(self._stub.Rerank, request, timeout_s)).results)

    async def models(self, *, timeout_s: float | None = None) -> list[pb.RerankingModel]:
        """Return the served models, by name. Raises SluiceError."""
        return list((await self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)).models)


def _request(query: str, documents: Sequence[str], model: str, top_k: int, raw_scores: bool) -> pb.RerankRequest:
    return pb.RerankRequest(model=model, query=query, documents=documents, top_k=top_k, raw_scores=raw_scores)
