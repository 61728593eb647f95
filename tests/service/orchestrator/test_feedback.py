"""Relevance feedback, with the real retrieval service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import BackendFailed
from sluice.search.v1 import search_service_pb2 as pb

from services.orchestrator.pipelines.loader import PipelinesError, parse
from tests.support.fake_services import (
    HashingEmbedder,
    OverlapReranker,
    embedding_server,
    orchestrator,
    reranking_server,
)
from tests.support.faults import search_with_time
from tests.support.servers import retrieval_address

if TYPE_CHECKING:
    from sluice.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub

PIPELINES = """
default:
  description: Two found, two more by what was liked.
  retrieve: [{name: dense, kind: dense, depth: 2}]
  rerank: [{name: rerank, depth: 2}]
  feedback: {name: again, retriever: dense, documents: 1, weight: 1, depth: 2}
plain:
  description: The same without.
  retrieve: [{name: dense, kind: dense, depth: 2}]
  rerank: [{name: rerank, depth: 2}]
"""
# "ore" is near to the query by its own words; "more" shares its words with "ore" alone, and one more with the query.
BOOKS = [
    Document(document_id="ore", text="wash ore gold sand river"),
    Document(document_id="dishes", text="wash wash dishes"),
    Document(document_id="more", text="gold sand river wash"),
    Document(document_id="far", text="a lock waits until it is free"),
]


@asynccontextmanager
async def services_of(folder: Path) -> AsyncIterator[tuple["SearchServiceAsyncStub", OverlapReranker]]:
    (folder / "p.yaml").write_text(PIPELINES)

    async def requests() -> AsyncIterator[pb.IndexRequest]:
        yield pb.IndexRequest(collection="books", create_collection=True, documents=BOOKS)

    reranker = OverlapReranker()
    async with (
        embedding_server(HashingEmbedder()) as embedding,
        retrieval_address(folder / "data") as retrieval,
        reranking_server(reranker) as reranking,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedding,
            retrieval=retrieval,
            reranking=reranking,
            pipelines=folder / "p.yaml",
        ) as (search, _),
    ):
        assert [response async for response in search.Index(requests())]
        yield search, reranker


def asking(pipeline: str = "") -> pb.SearchRequest:
    return pb.SearchRequest(collection="books", query="wash ore", pipeline=pipeline)


def ids(answer: pb.SearchResponse) -> list[str]:
    return [result.document.document_id for result in answer.results]


async def test_feedback_finds_more_documents_and_the_reranker_scores_them(tmp_path: Path) -> None:
    async with services_of(tmp_path) as (search, reranker):
        assert ids(await search.Search(asking("plain"))) == ["ore", "dishes"]
        scored = sum(len(request.documents) for method, request in reranker.calls if method == "Rerank")
        answer = await search.Search(asking())
        assert sum(len(request.documents) for method, request in reranker.calls if method == "Rerank") == scored + 2 + 2
        assert ids(answer)[0] == "ore"
        again = answer.stages[-1]
        assert (again.stage, again.status, again.scored_count) == ("again", pb.StageReport.STATUS_OK, 2)
        assert not answer.degraded
        assert [standing.stage for standing in answer.results[0].standings] == ["dense", "rerank", "again"]


async def test_without_scores_feedback_is_skipped_and_reported(tmp_path: Path) -> None:
    async with services_of(tmp_path) as (search, reranker):

        async def fail(method: str) -> None:
            raise BackendFailed("broken")

        reranker.before = fail
        answer = await search.Search(asking())
        assert len(answer.results) == 2
        again = answer.stages[-1]
        assert (again.stage, again.status) == ("again", pb.StageReport.STATUS_SKIPPED)
        assert "no feedback: stage" in again.reason
        assert answer.degraded


async def test_a_second_retrieval_that_times_out_keeps_the_first_results(tmp_path: Path) -> None:
    async with services_of(tmp_path) as (search, reranker):

        async def hang_later(method: str) -> None:
            if reranker.count("Rerank") > 1:
                await asyncio.Event().wait()

        reranker.before = hang_later

        def is_called_twice(_: pb.SearchResponse) -> bool:
            calls = reranker.count("Rerank")
            reranker.calls.clear()
            return calls > 1

        answer = await search_with_time(search, asking(), is_called_twice, first_s=4.0)
        assert ids(answer) == ["ore", "dishes"]
        again = answer.stages[-1]
        assert (again.stage, again.status) == ("again", pb.StageReport.STATUS_SKIPPED)
        assert again.reason.startswith("DEADLINE_EXPIRED")
        assert answer.degraded
        await reranker.cancelled.wait()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PIPELINES.replace("retriever: dense", "retriever: words"), "expected dense, got 'words'"),
        (PIPELINES.replace("  rerank: [{name: rerank, depth: 2}]\n", "", 1), "expected a reranker"),
    ],
)
def test_feedback_needs_a_reranker_and_a_dense_retriever(text: str, told: str) -> None:
    with pytest.raises(PipelinesError, match=told):
        parse(text, source="p.yaml")
