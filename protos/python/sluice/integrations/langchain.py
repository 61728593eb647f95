"""Sluice in LangChain: a retriever, embeddings, and a document compressor that reranks.

Needs `sluice-search[langchain]`. Clients are given, so that their connections, deadlines and credentials are the
caller's; errors are `sluice.errors`.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from sluice.client import AsyncSearchClient, EmbeddingClient, RerankingClient, SearchClient
from sluice.client.answers import Result, SearchAnswer


class SluiceRetriever(BaseRetriever):
    """The results of a pipeline as documents, best first.

    A document's metadata are those it was indexed with, and `title`, `score` and `degraded`: whether a stage of the
    search was skipped or cut short.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: SearchClient
    """Where searches go."""
    async_client: AsyncSearchClient | None = None
    """Where asynchronous searches go; without it, they run in a thread."""
    collection: str
    """What is searched."""
    pipeline: str = ""
    """Name of the pipeline; empty takes the default."""
    top_k: int = 10
    """How many documents."""
    filter: str | None = None
    """Only documents that match, e.g. `year >= 2020`."""
    timeout_s: float | None = None
    """Longest time of a search, in seconds; None takes the client's."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return documents(self.client.search(self.collection, query, **self._how()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        return documents(await self.async_client.search(self.collection, query, **self._how()))

    def _how(self) -> dict[str, Any]:
        return {
            "top_k": self.top_k,
            "pipeline": self.pipeline,
            "filter": self.filter,
            "timeout_s": self.timeout_s,
        }


class SluiceEmbeddings(Embeddings):
    """Vectors of the embedding service, with the prompts of its model for queries and for documents."""

    def __init__(self, client: EmbeddingClient, *, model: str = "") -> None:
        self._client = client
        self._model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each document. Raises SluiceError."""
        vectors: list[list[float]] = self._client.encode_document(texts, model=self._model).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query. Raises SluiceError."""
        vector: list[float] = self._client.encode_query(text, model=self._model).tolist()
        return vector


class SluiceReranker(BaseDocumentCompressor):
    """Documents ordered anew by the reranking service; each has its `relevance_score` in its metadata."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: RerankingClient
    """Who scores."""
    model: str = ""
    """Reranking model; empty when the server has one."""
    top_k: int = 0
    """Keep the best so many; 0 keeps all."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents, best first. Raises SluiceError."""
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        scored = self.client.rerank(query, texts, model=self.model, top_k=self.top_k)
        return [
            document.model_copy(update={"metadata": {**document.metadata, "relevance_score": one.score}})
            for one in scored
            for document in (documents[one.index],)
        ]


def documents(answer: SearchAnswer) -> list[Document]:
    """The results as LangChain's documents."""
    return [_document(result, degraded=answer.degraded) for result in answer.results]


def _document(result: Result, *, degraded: bool) -> Document:
    found = result.document
    metadata = {**found.metadata, "title": found.title, "score": result.score, "degraded": degraded}
    return Document(page_content=found.text or found.title, id=found.document_id, metadata=metadata)
