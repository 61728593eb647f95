"""Integration into LangChain: a retriever, embeddings, and a document compressor that reranks.

Needs `sluice-search[langchain]`. The caller passes clients, and so chooses connections, deadlines and credentials.
Errors are those of `sluice.errors`.
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
    """A retriever that returns the results of a pipeline, best first.

    The metadata of a document are its own, and `title`, `score` and `degraded`, which is true if a stage of the search
    was skipped or ran out of time.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: SearchClient
    """Client for searches."""
    async_client: AsyncSearchClient | None = None
    """Client for asynchronous searches. Without it, they run in a thread."""
    collection: str
    """Name of the collection."""
    pipeline: str = ""
    """Name of the pipeline; empty takes the server's default."""
    top_k: int = 10
    """Number of documents."""
    filter: str | None = None
    """Filter that documents must match, for example `year >= 2020`."""
    timeout_s: float | None = None
    """Timeout of a search, in seconds; None takes that of the client."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return documents(self.client.search(self.collection, query, **self._options()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        return documents(await self.async_client.search(self.collection, query, **self._options()))

    def _options(self) -> dict[str, Any]:
        return {
            "top_k": self.top_k,
            "pipeline": self.pipeline,
            "filter": self.filter,
            "timeout_s": self.timeout_s,
        }


class SluiceEmbeddings(Embeddings):
    """Embeddings of the embedding service, with the model's prompts for queries and documents."""

    def __init__(self, client: EmbeddingClient, *, model: str = "") -> None:
        self._client = client
        self._model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each document. Raises SluiceError."""
        vectors: list[list[float]] = self._client.encode_document(texts, model=self._model).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query. Raises SluiceError."""
        vector: list[float] = self._client.encode_query(text, model=self._model).tolist()
        return vector


class SluiceReranker(BaseDocumentCompressor):
    """A compressor that reranks documents, and adds `relevance_score` to their metadata."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: RerankingClient
    """Client of the reranking service."""
    model: str = ""
    """Name of the model. May be empty if the server has only one."""
    top_k: int = 0
    """Number of documents to keep; 0 keeps all."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the documents, best first. Raises SluiceError."""
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
    """Return the results as documents of LangChain."""
    return [_document(result, degraded=answer.degraded) for result in answer.results]


def _document(result: Result, *, degraded: bool) -> Document:
    found = result.document
    metadata = {**found.metadata, "title": found.title, "score": result.score, "degraded": degraded}
    return Document(page_content=found.text or found.title, id=found.document_id, metadata=metadata)
