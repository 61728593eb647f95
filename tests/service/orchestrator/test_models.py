"""The models of a search: bound to the fields of collections, checked against the served models, and listed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice.errors import PreconditionFailed, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb

from services.orchestrator.pipelines.schema import PACKAGED
from tests.support.fake_services import System, orchestrator
from tests.support.faults import BOOKS, SEARCH, failure, indexed_system

NAMED = """
default:
  description: Two models.
  retrieve: [{name: dense, kind: dense, depth: 10, model: MODEL}]
"""


FAST = pb.SearchRequest(collection="books", query="word3 word4", top_k=5, pipeline="fast")


async def listed(running: System, name: str, state: pb.Pipeline.State.ValueType) -> pb.Pipeline:
    """Return the listed pipeline as soon as it has this state."""
    while True:
        pipelines = (await running.search.ListPipelines(pb.ListPipelinesRequest())).pipelines
        [found] = [pipeline for pipeline in pipelines if pipeline.name == name]
        if found.state == state:
            return found
        await asyncio.sleep(0.01)


async def test_a_search_with_another_model_than_the_collection_takes_names_both(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(NAMED.replace("MODEL", "hashing"))

    async with indexed_system(tmp_path / "p.yaml") as running:
        [field] = running.retrieval.collections["books"].schema.dense_fields
        field.model_digest = "f" * 64
        error = await failure(running.search.Search(SEARCH))
        assert isinstance(error, PreconditionFailed)
        assert error.reason_name == "MODEL_MISMATCH"
        assert "takes vectors of the model ffffffffffff; the pipeline names hashing@1 (dddddddddddd)" in error.message


async def test_a_pipeline_with_an_unknown_model_is_listed_as_unusable(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(NAMED.replace("MODEL", "gone"))

    async with indexed_system(tmp_path / "p.yaml") as running:
        found = await listed(running, "default", pb.Pipeline.STATE_UNUSABLE)
        served = "served are hashing with dense, multi_vector, sparse vectors"
        assert list(found.problems) == [f"dense: expected the embedding model 'gone' with dense vectors, {served}"]


async def test_reloaded_pipelines_and_changed_models_are_checked_again(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(NAMED.replace("MODEL", "hashing"))

    async with indexed_system(file, reload_s=0.02, fresh_s=0.02) as running:
        await listed(running, "default", pb.Pipeline.STATE_USABLE)
        file.write_text(NAMED.replace("MODEL", "second"))
        await listed(running, "default", pb.Pipeline.STATE_UNUSABLE)
        running.embedder.names = ("hashing", "second")
        assert not (await listed(running, "default", pb.Pipeline.STATE_USABLE)).problems


async def test_the_orchestrator_starts_while_services_are_unavailable() -> None:
    nowhere: dict[str, Any] = {"embedding": "127.0.0.1:1", "retrieval": "127.0.0.1:1", "reranking": "127.0.0.1:1"}
    async with orchestrator(listen="127.0.0.1:0", drain_grace_s=0.0, **nowhere) as (search, _):
        pipelines = (await search.ListPipelines(pb.ListPipelinesRequest())).pipelines
        assert {pipeline.state for pipeline in pipelines} == {pb.Pipeline.STATE_UNCHECKED}


async def test_a_collection_that_changed_its_model_fails_no_search() -> None:
    """As when an alias moves: retrieval rejects vectors of the old model, and the search is planned again."""

    async with indexed_system(fresh_s=3600) as running:
        assert (await running.search.Search(FAST)).models[0].digest == running.embedder.digest
        running.embedder.names, running.embedder.digests = ("hashing", "second"), {"second": "n" * 64}
        [field] = running.retrieval.collections["books"].schema.dense_fields
        field.model_digest = "n" * 64
        retrieved = running.retrieval.count("Retrieve")
        answer = await running.search.Search(FAST)
        assert not answer.degraded
        assert [model.name for model in answer.models] == ["second"]
        assert running.retrieval.count("Retrieve") == retrieved + 2


async def test_optional_stages_without_a_field_are_left_out_and_the_answer_is_complete() -> None:
    """The packaged pipelines search a collection that has only a dense field."""

    async with indexed_system(PACKAGED, index_fields=["dense"]) as running:
        request = pb.SearchRequest(collection="books", query="word3 word4", top_k=5, pipeline="balanced")
        answer = await running.search.Search(request)
        statuses = {stage.stage: stage.status for stage in answer.stages}
        ok, left_out = pb.StageReport.STATUS_OK, pb.StageReport.STATUS_LEFT_OUT
        assert statuses == {"embed": ok, "dense": ok, "words": left_out, "terms": left_out, "fuse": ok}
        assert (answer.degraded, answer.coverage) == (False, 1.0)


async def requests() -> AsyncIterator[pb.IndexRequest]:
    yield pb.IndexRequest(collection="books", create_collection=True, documents=BOOKS)


async def test_new_fields_need_a_model_name_if_several_models_fit() -> None:
    async with indexed_system() as running:
        running.embedder.names = ("one", "two")
        running.retrieval.collections.clear()
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in running.search.Index(requests()):
                pass
        error = from_rpc_error(caught.value)
        assert isinstance(error, PreconditionFailed)
        assert "or its name in the settings (index_model), got one with" in error.message
