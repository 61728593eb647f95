from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest, NotFound, PreconditionFailed, SluiceError, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb

from services.core.fusion import interpolate, rrf
from services.core.ranking import Ranking
from tests.support.fake_services import PIPELINES, index, system, vector, words

BOOKS = [
    Document(document_id="a", title="Queues", text="asyncio queue get waits for an item"),
    Document(document_id="b", title="Locks", text="a lock waits until it is free"),
    Document(document_id="c", title="Cooking", text="boil the water and add the salt"),
    Document(document_id="d", text="queue of people waits for bread"),
]
TWO_KINDS = """
default:
  description: Two retrievers, fused, reranked.
  retrieve:
    - {name: left, kind: dense, depth: 3, model: one}
    - {name: right, kind: dense, depth: 4, model: two, on_error: skip, share: 0.3}
  fuse: {method: rrf, depth: 4}
  rerank:
    - {name: rerank, depth: 3, slice: 2}
"""


async def failure(call: Awaitable[Any]) -> SluiceError:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_search_embeds_retrieves_and_reranks() -> None:
    async with system() as running:
        await index(running, BOOKS)
        answer = await running.search.Search(pb.SearchRequest(collection="books", query="queue waits", top_k=2))
        assert [result.document.document_id for result in answer.results] == ["d", "a"]
        assert answer.results[0].document == BOOKS[3]
        assert not answer.degraded
        assert answer.coverage == 1.0
        ok = pb.StageReport.STATUS_OK
        told = [(s.stage, s.status, s.given_count, s.kept_count, s.reason) for s in answer.stages]
        assert told == [("embed", ok, 0, 0, ""), ("dense", ok, 0, 4, ""), ("rerank", ok, 4, 4, "")]
        assert [standing.stage for standing in answer.results[0].standings] == ["dense", "rerank"]
        assert [standing.rank for standing in answer.results[1].standings] == [2, 2]
        assert answer.pipeline == "default"
        assert answer.collection_version == 1
        assert [model.name for model in answer.models] == ["hashing", "overlap"]
        assert answer.duration.ToNanoseconds() >= max(s.duration.ToNanoseconds() for s in answer.stages)


async def test_search_gives_texts_with_titles_to_the_reranker() -> None:
    async with system() as running:
        await index(running, BOOKS)
        await running.search.Search(pb.SearchRequest(collection="books", query="queue waits"))
        [request] = [request for method, request in running.reranker.calls if method == "Rerank"]
        assert set(request.documents) == {f"{b.title}\n{b.text}" if b.title else b.text for b in BOOKS}


async def test_search_in_an_empty_collection_finds_nothing_and_is_not_degraded() -> None:
    async with system() as running:
        await index(running, [])
        answer = await running.search.Search(pb.SearchRequest(collection="books", query="queue"))
        assert not answer.results
        assert not answer.degraded
        assert running.reranker.count("Rerank") == 0


async def test_search_runs_the_named_pipeline() -> None:
    async with system() as running:
        await index(running, BOOKS)
        answer = await running.search.Search(pb.SearchRequest(collection="books", query="salt", pipeline="fast"))
        assert [stage.stage for stage in answer.stages] == ["embed", "dense"]
        assert answer.results[0].document.document_id == "c"


async def test_search_fuses_several_retrievers(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(TWO_KINDS)

    async with system(tmp_path / "p.yaml", index_model="one") as running:
        running.embedder.names = ("one", "two")
        await index(running, BOOKS)
        answer = await running.search.Search(pb.SearchRequest(collection="books", query="queue waits"))
        assert [stage.stage for stage in answer.stages] == ["embed", "left", "right", "fuse", "rerank"]
        assert [(s.given_count, s.kept_count) for s in answer.stages[1:]] == [(0, 3), (0, 4), (4, 4), (4, 3)]
        assert len(answer.results) == 3
        assert [s.stage for s in answer.results[0].standings] == ["left", "right", "fuse", "rerank"]
        assert running.embedder.count("Embed") == 3  # one to index, one a model to search
        assert running.reranker.count("Rerank") == 2  # slices of 2 and 1


async def test_a_served_pipeline_ranks_as_the_same_cascade_does_in_one_process() -> None:
    texts = {f"d{n:02}": " ".join(f"word{n * m % 17}" for m in range(1, 9)) for n in range(60)}
    query = "word3 word5 word8 word13"

    def cosine(text: str) -> float:
        return float(vector(text) @ vector(query))

    def overlap(text: str) -> float:
        return len(set(words(text)) & set(words(query))) / len(set(words(query)))

    dense = Ranking.of((id_, cosine(text)) for id_, text in texts.items()).top(50)
    scored = Ranking.of((id_, overlap(texts[id_])) for id_ in dense.ids)
    expected = interpolate(dense, scored, weight=0.7, normalization="min_max")

    async with system() as running:
        await index(running, [Document(document_id=id_, text=text) for id_, text in texts.items()])
        answer = await running.search.Search(pb.SearchRequest(collection="books", query=query, top_k=50))
        assert [result.score for result in answer.results] == pytest.approx(expected.scores, abs=1e-6)
        served = Ranking.of((result.document.document_id, round(result.score, 5)) for result in answer.results)
        assert served.ids == Ranking.of((id_, round(score, 5)) for id_, score in expected.items()).ids


async def test_search_with_several_wordings_fuses_what_each_of_them_finds() -> None:
    async with system() as running:

        async def ranking(**wordings: Any) -> Ranking:
            request = pb.SearchRequest(collection="books", pipeline="fast", **wordings)
            results = (await running.search.Search(request)).results
            return Ranking.of((result.document.document_id, result.score) for result in results)

        await index(running, BOOKS)
        alone = [await ranking(query="salt"), await ranking(query="lock")]
        before = running.embedder.count("Embed"), running.retrieval.count("Retrieve")
        together = await ranking(query="salt", more_queries=["lock"])
        assert together.ids == rrf(alone).ids
        assert (running.embedder.count("Embed"), running.retrieval.count("Retrieve")) == (before[0] + 1, before[1] + 1)


async def test_a_cut_off_ends_the_results_unless_its_stage_failed(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        """
default:
  description: Good ones only.
  retrieve: [{name: dense, kind: dense, depth: 4}]
  rerank: [{name: rerank, depth: 4}]
  cut_off: {min_score: 0.9}
"""
    )

    async with system(tmp_path / "p.yaml") as running:
        await index(running, BOOKS)
        request = pb.SearchRequest(collection="books", query="queue waits")
        answer = await running.search.Search(request)
        assert [result.document.document_id for result in answer.results] == ["a", "d"]
        running.reranker.alter = lambda response: type(response)()
        assert len((await running.search.Search(request)).results) == 4


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (pb.SearchRequest(query="x"), "collection", "got ''"),
        (pb.SearchRequest(collection="Books!", query="x"), "collection", "got 'Books!'"),
        (pb.SearchRequest(collection="books"), "query", "got none"),
        (pb.SearchRequest(collection="books", query="x", more_queries=["y", ""]), "more_queries[1]", "got none"),
        (pb.SearchRequest(collection="books", query="x", more_queries=["y"] * 8), "more_queries", "0 to 7 wordings"),
        (pb.SearchRequest(collection="books", query=" \n"), "query", "only white space"),
        (pb.SearchRequest(collection="books", query="x" * 8193), "query", "at most 8,192 bytes of UTF-8, got 8,193"),
        (
            pb.SearchRequest(collection="books", query="x", top_k=51),
            "top_k",
            "1 to 50 results of this pipeline, got 51",
        ),
        (pb.SearchRequest(collection="books", query="x", top_k=-1), "top_k", "got -1"),
    ],
)
async def test_search_rejects_invalid_requests(request_: pb.SearchRequest, field: str, words: str) -> None:
    async with system() as running:
        error = await failure(running.search.Search(request_))
        assert isinstance(error, InvalidRequest)
        assert error.violations[0].field == field
        assert words in error.violations[0].description
        assert not running.embedder.count("Embed")


async def test_search_of_an_unknown_collection_is_not_found() -> None:
    async with system() as running:
        error = await failure(running.search.Search(pb.SearchRequest(collection="books", query="x")))
        assert isinstance(error, NotFound)
        assert error.reason_name == "UNKNOWN_COLLECTION"


async def test_search_with_an_unknown_pipeline_names_the_existing_ones() -> None:
    async with system() as running:
        error = await failure(running.search.Search(pb.SearchRequest(collection="books", query="x", pipeline="slow")))
        assert isinstance(error, NotFound)
        assert error.reason_name == "UNKNOWN_PIPELINE"
        assert "default, fast" in error.message


async def test_search_with_another_model_than_the_collection_was_made_for_is_a_failed_precondition() -> None:
    async with system() as running:
        await index(running, BOOKS)
        running.embedder.digest = "f" * 64
        error = await failure(running.search.Search(pb.SearchRequest(collection="books", query="x")))
        assert isinstance(error, PreconditionFailed)
        assert error.reason_name == "MODEL_MISMATCH"


async def test_pipelines_are_listed_by_name_with_their_stages() -> None:
    async with system() as running:
        listed = (await running.search.ListPipelines(pb.ListPipelinesRequest())).pipelines
        assert [pipeline.name for pipeline in listed] == ["balanced", "default", "fast", "hybrid"]
        stages = [(stage.name, stage.kind, stage.depth) for stage in listed[1].stages]
        assert stages == [("dense", "retrieve", 50), ("rerank", "rerank", 50)]
        kinds = [(stage.name, stage.kind) for stage in listed[0].stages]
        assert kinds == [("dense", "retrieve"), ("words", "retrieve"), ("fuse", "fuse"), ("maxsim", "refine")]


async def test_changed_pipelines_are_used_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINES.read_text())

    async with system(file, reload_s=0.01) as running:
        file.write_text(TWO_KINDS)
        names = ["before"]
        while names != ["default"]:
            listed = await running.search.ListPipelines(pb.ListPipelinesRequest())
            names = [pipeline.name for pipeline in listed.pipelines]


async def test_delete_removes_documents() -> None:
    async with system() as running:
        await index(running, BOOKS)
        deleted = await running.search.Delete(pb.DeleteRequest(collection="books", document_ids=["a", "nowhere"]))
        assert deleted.deleted_count == 1
        assert "a" not in running.retrieval.collections["books"].documents


async def test_delete_requires_ids_or_a_filter() -> None:
    async with system() as running:
        error = await failure(running.search.Delete(pb.DeleteRequest(collection="books")))
        assert isinstance(error, InvalidRequest)
        assert "expected ids or a filter, got none" in error.message
