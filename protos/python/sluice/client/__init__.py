"""Sync and async clients of Sluice.

    from sluice.client import SearchClient

    with SearchClient("127.0.0.1:50050") as client:
        answer = client.search("docs", "how do I wait for two tasks?", filter="kind == 'function'")
        for result in answer.results:
            print(result.score, result.document.title)

Every call has a `timeout_s`, retries UNAVAILABLE within it, and raises the errors of `sluice.errors`.
"""

from sluice.client.answers import Acknowledgement, Pipeline, Result, SearchAnswer, Stage, StageReport, Standing
from sluice.client.credentials import tls_credentials
from sluice.client.documents import Document, MetadataValue, Scalar
from sluice.client.embedding import AsyncEmbeddingClient, EmbeddingClient, Embeddings
from sluice.client.filters import to_text, where
from sluice.client.index_options import Chunking, Windows
from sluice.client.reranking import AsyncRerankingClient, RerankingClient
from sluice.client.retrieval import AsyncRetrievalClient, RetrievalClient
from sluice.client.retry import RetryPolicy
from sluice.client.search import AsyncSearchClient, SearchClient
from sluice.client.tensors import float32_tensor, float32_view

__all__ = [
    "Acknowledgement",
    "AsyncEmbeddingClient",
    "AsyncRerankingClient",
    "AsyncRetrievalClient",
    "AsyncSearchClient",
    "Chunking",
    "Document",
    "EmbeddingClient",
    "Embeddings",
    "MetadataValue",
    "Pipeline",
    "RerankingClient",
    "Result",
    "RetrievalClient",
    "RetryPolicy",
    "Scalar",
    "SearchAnswer",
    "SearchClient",
    "Stage",
    "StageReport",
    "Standing",
    "Windows",
    "float32_tensor",
    "float32_view",
    "tls_credentials",
    "to_text",
    "where",
]
