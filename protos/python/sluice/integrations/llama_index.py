"""Integration into LlamaIndex: a retriever, and a node postprocessor that reranks.

Needs `sluice-search[llama-index]`. The caller passes clients, and so chooses connections, deadlines and credentials.
Errors are those of `sluice.errors`.
"""

from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import ConfigDict

from sluice.client import AsyncSearchClient, RerankingClient, SearchClient
from sluice.client.answers import Result, SearchAnswer


class SluiceRetriever(BaseRetriever):
    """A retriever that returns the results of a pipeline, best first.

    The metadata of a node are those of the document, and `title` and `degraded`, which is true if a stage of the search
    was skipped or ran out of time.

    client        client for searches
    collection    name of the collection
    async_client  client for asynchronous searches; without it, they block
    pipeline      name of the pipeline; empty takes the server's default
    top_k         number of nodes
    filter        filter that documents must match, for example `year >= 2020`
    timeout_s     timeout of a search, in seconds; None takes that of the client
    """

    def __init__(  # noqa: PLR0913 - fields of the search
        self,
        client: SearchClient,
        collection: str,
        *,
        async_client: AsyncSearchClient | None = None,
        pipeline: str = "",
        top_k: int = 10,
        filter: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__()
        self._client = client
        self._async_client = async_client
        self._collection = collection
        self._options: dict[str, Any] = {
            "top_k": top_k,
            "pipeline": pipeline,
            "filter": filter,
            "timeout_s": timeout_s,
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return nodes(self._client.search(self._collection, query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_client is None:
            return self._retrieve(query_bundle)
        return nodes(await self._async_client.search(self._collection, query_bundle.query_str, **self._options))


class SluiceRerank(BaseNodePostprocessor):
    """A postprocessor that reranks nodes and gives them new scores."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: RerankingClient
    """Client of the reranking service."""
    model: str = ""
    """Name of the model. May be empty if the server has only one."""
    top_n: int = 0
    """Number of nodes to keep; 0 keeps all."""

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex refers to this class."""
        return "SluiceRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("SluiceRerank: expected a query with the nodes, got none")
        if not nodes:
            return []
        texts = [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        scored = self.client.rerank(query_bundle.query_str, texts, model=self.model, top_k=self.top_n)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in scored]


def nodes(answer: SearchAnswer) -> list[NodeWithScore]:
    """Return the results as nodes of LlamaIndex."""
    return [
        NodeWithScore(node=_node(result, degraded=answer.degraded), score=result.score) for result in answer.results
    ]


def _node(result: Result, *, degraded: bool) -> TextNode:
    found = result.document
    metadata = {**found.metadata, "title": found.title, "degraded": degraded}
    return TextNode(id_=found.document_id, text=found.text or found.title, metadata=metadata)
