"""Documents stored as chunks, with the real retrieval service. The fake embedder counts words as tokens."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest, PreconditionFailed, SluiceError, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.fake_services import (
    HashingEmbedder,
    OverlapReranker,
    embedding_server,
    orchestrator,
    reranking_server,
)
from tests.support.servers import retrieval_address

if TYPE_CHECKING:
    from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceAsyncStub
    from sluice.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub

INDEXED = pb.Acknowledgement.OUTCOME_INDEXED
UNCHANGED = pb.Acknowledgement.OUTCOME_UNCHANGED
FAILED = pb.Acknowledgement.OUTCOME_FAILED
PIPELINES = """
default:
  description: Dense and words.
  retrieve:
    - {name: dense, kind: dense, depth: 3}
    - {name: words, kind: text, depth: 3}
  fuse: {method: rrf, depth: 3}
one:
  description: Dense alone.
  retrieve: [{name: dense, kind: dense, depth: 3}]
"""
CHUNKING = pb.Chunking(token_count=16, overlap_token_count=4)


@dataclass
class Chunked:
    """A running system."""

    search: "SearchServiceAsyncStub"
    retrieval: "RetrievalServiceAsyncStub"
    embedder: HashingEmbedder

    async def index(self, *documents: Document, chunking: pb.Chunking | None = CHUNKING) -> dict[str, Any]:
        """Outcomes by id."""

        async def requests() -> AsyncIterator[pb.IndexRequest]:
            yield pb.IndexRequest(collection="books", create_collection=True, documents=documents, chunking=chunking)

        known = [item async for response in self.search.Index(requests()) for item in response.acknowledgements]
        assert len(known) == len(documents)
        return {item.document_id: item.outcome for item in known}

    async def stored(self) -> dict[str, str]:
        """Texts by id."""
        request = retrieval_pb.ListDocumentsRequest(collection="books", page_size=1024)
        return {one.document_id: one.text for one in (await self.retrieval.ListDocuments(request)).documents}

    async def found(self, query: str, **others: Any) -> list[str]:
        answer = await self.search.Search(pb.SearchRequest(collection="books", query=query, **others))
        return [result.document.document_id for result in answer.results]


@asynccontextmanager
async def services_of(folder: Path, **settings: Any) -> AsyncIterator[Chunked]:
    (folder / "pipelines.yaml").write_text(PIPELINES)

    embedder = HashingEmbedder()
    async with (
        embedding_server(embedder) as embedding,
        retrieval_address(folder / "data") as retrieval,
        reranking_server(OverlapReranker()) as reranking,
        grpc.aio.insecure_channel(retrieval) as channel,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedding,
            retrieval=retrieval,
            reranking=reranking,
            pipelines=folder / "pipelines.yaml",
            **settings,
        ) as (search, _),
    ):
        yield Chunked(search, RetrievalServiceStub(channel), embedder)


async def failure(call: Awaitable[Any]) -> SluiceError:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def book(id_: str, count: int, word: str = "word") -> Document:
    return Document(document_id=id_, text=" ".join(f"{word}{n}" for n in range(count)))


async def test_a_long_document_is_stored_as_chunks_and_acknowledged_once(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        assert await running.index(book("a", 40), book("b", 3, "short")) == {"a": INDEXED, "b": INDEXED}
        stored = await running.stored()
        assert sorted(stored) == ["a#0", "a#1", "a#2", "b#0"]
        assert stored["a#0"].split() == [f"word{n}" for n in range(16)]
        assert stored["a#1"].split()[:4] == [f"word{n}" for n in range(12, 16)]
        assert stored["b#0"] == "short0 short1 short2"


async def test_chunks_of_equal_documents_cost_no_model_work(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        await running.index(book("a", 40))
        before = running.embedder.count("Embed")
        assert await running.index(book("a", 40)) == {"a": UNCHANGED}
        assert running.embedder.count("Embed") == before
        other = pb.Chunking(token_count=20, overlap_token_count=4)
        assert await running.index(book("a", 40), chunking=other) == {"a": INDEXED}


async def test_the_surplus_chunks_of_a_shortened_document_are_deleted(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        await running.index(book("a", 100), book("b", 40))
        assert len(await running.stored()) == 8 + 3
        await running.index(book("a", 20, "new"))
        stored = await running.stored()
        assert sorted(stored) == ["a#0", "a#1", "b#0", "b#1", "b#2"]
        assert stored["a#1"].split()[-1] == "new19"


async def test_an_interrupted_change_is_repeated(tmp_path: Path) -> None:
    """Surplus chunks are deleted first. The first chunk is written last, so the next run sees the old one."""

    async with services_of(tmp_path) as running:
        await running.index(book("a", 100))
        gone = [f"a#{n}" for n in range(2, 8)]
        await running.retrieval.DeleteDocuments(
            retrieval_pb.DeleteDocumentsRequest(collection="books", document_ids=gone)
        )
        assert await running.index(book("a", 20, "new")) == {"a": INDEXED}
        stored = await running.stored()
        assert sorted(stored) == ["a#0", "a#1"]
        assert stored["a#0"].startswith("new0")


async def test_a_document_of_more_chunks_than_a_batch_is_stored_whole(tmp_path: Path) -> None:
    async with services_of(tmp_path, batch_documents=4) as running:
        assert await running.index(book("a", 300)) == {"a": INDEXED}
        assert len(await running.stored()) == 25
        sizes = [len(request.texts) for method, request in running.embedder.calls if method == "Embed"]
        assert max(sizes) <= 4


async def test_only_the_best_chunk_of_a_parent_is_returned_and_top_k_counts_parents(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        many = Document(document_id="many", text="salt water " * 200)
        others = [Document(document_id=f"other{n}", text="salt " + "bread " * 12) for n in range(3)]
        await running.index(many, *others)
        for pipeline in ("default", "one"):
            plain = await running.found("salt water", top_k=3, pipeline=pipeline)
            assert {id_.partition("#")[0] for id_ in plain} == {"many"}
            grouped = await running.found("salt water", top_k=3, pipeline=pipeline, group_by_parent=True)
            assert len({id_.partition("#")[0] for id_ in grouped}) == 3
            assert grouped[0].startswith("many#")
        request = pb.SearchRequest(collection="books", query="salt water", group_by_parent=True)
        answer = await running.search.Search(request)
        assert answer.results[0].parent_id == "many"


async def test_a_parent_is_deleted_with_its_chunks_and_counted_once(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        await running.index(book("a", 40), book("b", 40), book("c", 4))
        deleted = await running.search.Delete(pb.DeleteRequest(collection="books", document_ids=["a", "c", "nowhere"]))
        assert deleted.deleted_count == 2
        assert sorted(await running.stored()) == ["b#0", "b#1", "b#2"]


async def test_chunks_and_whole_documents_are_not_mixed(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        await running.index(book("a", 4))
        error = await failure(running.index(book("b", 4), chunking=None))
        assert isinstance(error, PreconditionFailed)
        assert (error.reason_name, "holds chunks" in error.message) == ("COLLECTION_MISMATCH", True)


async def test_whole_documents_take_no_chunks(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        await running.index(book("a", 4), chunking=None)
        error = await failure(running.index(book("b", 4)))
        assert isinstance(error, PreconditionFailed)
        assert "holds whole documents" in error.message


@pytest.mark.parametrize(
    ("chunking", "field"),
    [
        (pb.Chunking(token_count=15), "chunking.token_count"),
        (pb.Chunking(token_count=16, overlap_token_count=9), "chunking.overlap_token_count"),
        (pb.Chunking(token_count=257), "chunking.token_count"),
    ],
)
async def test_chunks_have_limits(tmp_path: Path, chunking: pb.Chunking, field: str) -> None:
    async with services_of(tmp_path) as running:
        error = await failure(running.index(book("a", 4), chunking=chunking))
        assert isinstance(error, InvalidRequest)
        assert error.violations[0].field == field


async def test_parents_have_shorter_ids_and_no_metadata_of_chunks(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        named = book("n", 3)
        named.metadata["chunk"].number_value = 1
        outcomes = await running.index(book("i" * 501, 3), named, book("a", 3))
        assert outcomes == {"i" * 501: FAILED, "n": FAILED, "a": INDEXED}
