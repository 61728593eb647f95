"""Sluice in LlamaIndex: a retriever, and a node post-processor that reranks.

Needs `sluice-search[llama-index]`. Clients are given, so that their connections, deadlines and credentials are the
caller's; errors are `sluice.errors`.
"""

from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import ConfigDict

from sluice.client import AsyncSearchClient, RerankingClient, SearchClient
from sluice.client.answers import Result, SearchAnswer


class SluiceRetriever(BaseRetriever):
    """The results of a pipeline as nodes, best first.

    A node's metadata are those the document was indexed with, and `title` and `degraded`: whether a stage of the search
    was skipped or cut short.

    client        where searches go
    collection    what is searched
    async_client  where asynchronous searches go; without it, they block
    pipeline      name of the pipeline; empty takes the default
    top_k         how many nodes
    filter        only documents that match, e.g. `year >= 2020`
    timeout_s     longest time of a search, in seconds; None takes the client's
    """

    def __init__(  # noqa: PLR0913 - each is a field of the search
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
        self._how: dict[str, Any] = {
            "top_k": top_k,
            "pipeline": pipeline,
            "filter": filter,
            "timeout_s": timeout_s,
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return nodes(self._client.search(self._collection, query_bundle.query_str, **self._how))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_client is None:
            return self._retrieve(query_bundle)
        return nodes(await self._async_client.search(self._collection, query_bundle.query_str, **self._how))


class SluiceRerank(BaseNodePostprocessor):
    """Nodes ordered anew by the reranking service, with its scores."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: RerankingClient
    """Who scores."""
    model: str = ""
    """Reranking model; empty when the server has one."""
    top_n: int = 0
    """Keep the best so many; 0 keeps all."""

    @classmethod
    def class_name(cls) -> str:
        """What LlamaIndex calls it."""
        return "SluiceRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("SluiceRerank: expected the query beside the nodes, got none")
        if not nodes:
            return []
        texts = [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        scored = self.client.rerank(query_bundle.query_str, texts, model=self.model, top_k=self.top_n)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in scored]


def nodes(answer: SearchAnswer) -> list[NodeWithScore]:
    """The results as LlamaIndex's nodes."""
    return [
        NodeWithScore(node=_node(result, degraded=answer.degraded), score=result.score) for result in answer.results
    ]


def _node(result: Result, *, degraded: bool) -> TextNode:
    found = result.document
    metadata = {**found.metadata, "title": found.title, "degraded": degraded}
    return TextNode(id_=found.document_id, text=found.text or found.title, metadata=metadata)
