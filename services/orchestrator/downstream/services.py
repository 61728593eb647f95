"""The clients of all services that the orchestrator calls."""

from dataclasses import dataclass

from services.orchestrator.downstream.embedding import EmbeddingClient
from services.orchestrator.downstream.reranking import RerankingClient
from services.orchestrator.downstream.retrieval import RetrievalClient


@dataclass(frozen=True)
class Services:
    """The clients that a search or an index stream uses."""

    embedding: EmbeddingClient
    retrieval: RetrievalClient
    reranking: RerankingClient
