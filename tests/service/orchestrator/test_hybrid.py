"""Retrievers of every kind, with the real retrieval service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import Unavailable
from sluice.search.v1 import search_service_pb2 as pb

from services.core.fusion import weighted_sum
from services.core.ranking import Ranking
from tests.support.fake_services import (
    HashingEmbedder,
    OverlapReranker,
    embedding_server,
    orchestrator,
    reranking_server,
)
from tests.support.servers import retrieval_address

if TYPE_CHECKING:
    from sluice.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub

KINDS = ["dense", "text", "sparse", "multi_vector"]
PIPELINES = (
    "".join(
        f"""
{"default" if kind == "dense" else kind}:
  description: One kind.
  retrieve: [{{name: {kind}, kind: {kind}, depth: 5}}]
"""
        for kind in KINDS
    )
    + """
all:
  description: All kinds, any of which may be missing.
  retrieve:
"""
    + "".join(f"    - {{name: {kind}, kind: {kind}, depth: 5, on_error: skip}}\n" for kind in KINDS)
    + """
  fuse:
    method: weighted_sum
    normalisation: z_score
    weights: {dense: 1, text: 1, sparse: 1, multi_vector: 1}
    depth: 5
late:
  description: Dense and words, then token vectors of what they found.
  retrieve:
    - {name: near, kind: dense, depth: 1, on_error: skip}
    - {name: words, kind: text, depth: 2, on_error: skip}
  fuse: {method: rrf, depth: 3}
  refine: {name: maxsim, depth: 2}
"""
)
BOOKS = [
    Document(document_id="a", title="Queues", text="asyncio queue get waits for an item"),
    Document(document_id="b", title="Locks", text="a lock blocks until it is free"),
    Document(document_id="c", title="Cooking", text="boil the water and add salt"),
]


@asynccontextmanager
async def services_of(folder: Path, **settings: Any) -> AsyncIterator[tuple["SearchServiceAsyncStub", HashingEmbedder]]:
    (folder / "pipelines.yaml").write_text(PIPELINES)

    embedder = HashingEmbedder()
    async with (
        embedding_server(embedder) as embedding,
        retrieval_address(folder / "data") as retrieval,
        reranking_server(OverlapReranker()) as reranking,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedding,
            retrieval=retrieval,
            reranking=reranking,
            pipelines=folder / "pipelines.yaml",
            **settings,
        ) as (search, _),
    ):
        yield search, embedder


async def index(search: "SearchServiceAsyncStub") -> None:
    async def requests() -> AsyncIterator[pb.IndexRequest]:
        yield pb.IndexRequest(collection="books", create_collection=True, documents=BOOKS)

    known = [item async for response in search.Index(requests()) for item in response.acknowledgements]
    assert [item.outcome for item in known] == [pb.Acknowledgement.OUTCOME_INDEXED] * 3


async def ranked(search: "SearchServiceAsyncStub", pipeline: str, query: str, *more: str) -> Ranking:
    request = pb.SearchRequest(collection="books", query=query, pipeline=pipeline, more_queries=more)
    answer = await search.Search(request)
    assert not answer.degraded
    return Ranking.of((result.document.document_id, result.score) for result in answer.results)


@pytest.mark.parametrize("pipeline", ["default", "text", "sparse", "multi_vector"])
async def test_a_collection_with_fields_of_all_kinds_is_searched_by_each(tmp_path: Path, pipeline: str) -> None:
    async with services_of(tmp_path, index_fields=KINDS) as (search, embedder):
        await index(search)
        embedded = embedder.count("Embed")
        assert (await ranked(search, pipeline, "lock free")).ids[0] == "b"
        assert embedder.count("Embed") == embedded + (pipeline != "text")
        assert {"a", "c"} <= set((await ranked(search, pipeline, "asyncio item", "water salt")).ids)


async def test_all_kinds_are_fused_and_embedded_in_one_call(tmp_path: Path) -> None:
    async with services_of(tmp_path, index_fields=KINDS) as (search, embedder):
        await index(search)
        alone = [
            await ranked(search, pipeline, "queue salt") for pipeline in ("default", "text", "sparse", "multi_vector")
        ]
        embedded = embedder.count("Embed")
        together = await ranked(search, "all", "queue salt")
        expected = weighted_sum(alone, [1.0] * 4, "z_score")
        assert together.ids == expected.ids
        assert together.scores == pytest.approx(expected.scores, abs=1e-5)
        assert embedder.count("Embed") == embedded + 1


async def test_a_text_retriever_answers_while_the_embedding_service_is_unavailable(tmp_path: Path) -> None:
    async with services_of(tmp_path, index_fields=KINDS) as (search, embedder):

        async def refuse(method: str) -> None:
            raise Unavailable("away")

        await index(search)
        embedder.before = refuse
        request = pb.SearchRequest(collection="books", query="lock free", pipeline="all")
        before = embedder.count("Embed")
        answer = await search.Search(request, timeout=30.0)
        assert embedder.count("Embed") <= before + 3  # it is not waited for
        assert [result.document.document_id for result in answer.results] == ["b"]
        assert answer.degraded
        assert answer.coverage == 0.25
        statuses = {report.stage: report.status for report in answer.stages}
        skipped, ok = pb.StageReport.STATUS_SKIPPED, pb.StageReport.STATUS_OK
        assert statuses == {
            "embed": skipped,
            "dense": skipped,
            "text": ok,
            "sparse": skipped,
            "multi_vector": skipped,
            "fuse": ok,
        }


async def test_the_report_names_a_missing_field(tmp_path: Path) -> None:
    async with services_of(tmp_path) as (search, _):
        await index(search)
        request = pb.SearchRequest(collection="books", query="lock free", pipeline="all")
        answer = await search.Search(request)
        assert answer.results[0].document.document_id == "b"
        assert answer.coverage == 0.5
        skipped = [report.stage for report in answer.stages if report.status == pb.StageReport.STATUS_SKIPPED]
        assert skipped == ["sparse", "multi_vector"]


async def test_token_vectors_score_only_what_was_found(tmp_path: Path) -> None:
    async with services_of(tmp_path, index_fields=KINDS) as (search, embedder):
        await index(search)
        alone = dict((await ranked(search, "multi_vector", "lock free")).items())
        embedded = embedder.count("Embed")
        refined = await ranked(search, "late", "lock free")
        assert refined.ids == ("b",)
        assert dict(refined.items()) == pytest.approx({"b": alone["b"]}, abs=1e-5)
        assert embedder.count("Embed") == embedded + 1


async def test_token_vectors_score_what_any_wording_found_by_the_query_itself(tmp_path: Path) -> None:
    async with services_of(tmp_path, index_fields=KINDS) as (search, _):
        await index(search)
        alone = dict((await ranked(search, "multi_vector", "asyncio item")).items())
        refined = await ranked(search, "late", "asyncio item", "water salt")
        assert set(refined.ids) == {"a", "c"}
        assert dict(refined.items()) == pytest.approx({id_: alone[id_] for id_ in refined.ids}, abs=1e-5)


async def test_a_refinement_without_vectors_keeps_the_previous_order(tmp_path: Path) -> None:
    async with services_of(tmp_path, index_fields=KINDS) as (search, embedder):

        async def refuse(method: str) -> None:
            raise Unavailable("away")

        await index(search)
        embedder.before = refuse
        request = pb.SearchRequest(collection="books", query="lock free", pipeline="late")
        answer = await search.Search(request, timeout=30.0)
        assert [result.document.document_id for result in answer.results] == ["b"]
        skipped = [report.stage for report in answer.stages if report.status == pb.StageReport.STATUS_SKIPPED]
        assert skipped == ["embed", "near", "maxsim"]


async def test_a_collection_without_token_vectors_is_searched_without_the_refinement(tmp_path: Path) -> None:
    async with services_of(tmp_path) as (search, _):
        await index(search)
        answer = await search.Search(pb.SearchRequest(collection="books", query="lock free", pipeline="late"))
        assert answer.results[0].document.document_id == "b"
        assert (answer.degraded, answer.coverage) == (True, 0.0)
        skipped = [report.stage for report in answer.stages if report.status == pb.StageReport.STATUS_SKIPPED]
        assert skipped == ["maxsim"]
