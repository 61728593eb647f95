"""Searches of a name while its collection changes: they are answered or rejected as documented, never INTERNAL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import PreconditionFailed, SluiceError, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.fake_services import (
    DIMENSIONS,
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

DIGEST = HashingEmbedder().digest
PIPELINES = """
default:
  description: Dense alone.
  retrieve: [{name: dense, kind: dense, depth: 5}]
words:
  description: Words alone.
  retrieve: [{name: words, kind: text, depth: 5}]
named:
  description: By the names of fields.
  retrieve:
    - {name: dense, kind: dense, field: dense, depth: 5}
    - {name: words, kind: text, field: text, depth: 5}
  fuse: {method: rrf, depth: 5}
maxsim:
  description: Refined.
  retrieve: [{name: dense, kind: dense, depth: 5}]
  refine: {name: maxsim, depth: 5, on_error: fail}
"""
SCHEMAS = {
    "fitting": retrieval_pb.Schema(
        text_fields=[retrieval_pb.TextField(name="text")],
        multi_vector_fields=[retrieval_pb.MultiVectorField(name="tokens", dimensions=DIMENSIONS, model_digest=DIGEST)],
        dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=DIMENSIONS, model_digest=DIGEST)],
    ),
    "other names": retrieval_pb.Schema(
        dense_fields=[retrieval_pb.DenseField(name="vectors", dimensions=DIMENSIONS, model_digest=DIGEST)],
        text_fields=[retrieval_pb.TextField(name="words")],
    ),
    "other types": retrieval_pb.Schema(
        dense_fields=[retrieval_pb.DenseField(name="text", dimensions=DIMENSIONS, model_digest=DIGEST)],
        text_fields=[retrieval_pb.TextField(name="dense")],
    ),
    "other model": retrieval_pb.Schema(
        dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=DIMENSIONS, model_digest="f" * 64)]
    ),
    "other dimensions": retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=7)]),
    "wrong dimensions": retrieval_pb.Schema(
        dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=7, model_digest=DIGEST)],
        text_fields=[retrieval_pb.TextField(name="text")],
    ),
    "unbound": retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=DIMENSIONS)]),
    "words": retrieval_pb.Schema(text_fields=[retrieval_pb.TextField(name="text")]),
}
NAMES = {name: name.replace(" ", "-") for name in SCHEMAS}


class Running:
    """Yield a running system with a collection of each schema."""

    def __init__(self, search: "SearchServiceAsyncStub", retrieval: "RetrievalServiceAsyncStub") -> None:
        self.search = search
        self.retrieval = retrieval

    async def point(self, schema: str) -> None:
        """Let the alias mean the collection with this schema."""
        await self.retrieval.SetAlias(
            retrieval_pb.SetAliasRequest(alias=retrieval_pb.Alias(alias="live", collection=NAMES[schema]))
        )

    async def found(self, pipeline: str, collection: str = "live") -> pb.SearchResponse | SluiceError:
        """The answer of a search, or the error."""
        request = pb.SearchRequest(collection=collection, query="some words", pipeline=pipeline)
        try:
            return await self.search.Search(request, timeout=30.0)
        except grpc.RpcError as error:
            return from_rpc_error(error)

    async def fill(self) -> None:
        """Create the collections, and index into those that the model fits."""
        for name, schema in SCHEMAS.items():
            await self.retrieval.CreateCollection(retrieval_pb.CreateCollectionRequest(name=NAMES[name], schema=schema))
        for name in ("fitting", "other names", "other types", "unbound"):
            call = self.search.Index(self.documents(NAMES[name]))
            assert [ack.outcome async for response in call for ack in response.acknowledgements] == [1] * 8

    async def documents(self, collection: str) -> AsyncIterator[pb.IndexRequest]:
        texts = [Document(document_id=f"d{number}", text=f"some words {number}") for number in range(8)]
        yield pb.IndexRequest(collection=collection, documents=texts)


@asynccontextmanager
async def services_of(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    (folder / "pipelines.yaml").write_text(PIPELINES)

    async with (
        embedding_server(HashingEmbedder()) as embedding,
        reranking_server(OverlapReranker()) as reranking,
        retrieval_address(folder / "data") as retrieval,
        grpc.aio.insecure_channel(retrieval) as channel,
    ):
        addresses = {"embedding": embedding, "reranking": reranking, "retrieval": retrieval}
        given: dict[str, Any] = {"pipelines": folder / "pipelines.yaml", "drain_grace_s": 0.0, **settings}
        async with orchestrator(listen="127.0.0.1:0", **addresses, **given) as (search, _):
            running = Running(search, RetrievalServiceStub(channel))
            await running.fill()
            yield running


def code(found: pb.SearchResponse | SluiceError) -> str:
    return found.code.name if isinstance(found, SluiceError) else "OK"


async def test_a_search_is_planned_again_if_the_name_means_another_collection(tmp_path: Path) -> None:
    """Every pipeline, from every collection to every other, with collections that were looked up up to an hour ago."""

    async with services_of(tmp_path, fresh_s=3600) as running:
        for pipeline in ("default", "words", "named", "maxsim"):
            expected = {name: code(await running.found(pipeline, NAMES[name])) for name in SCHEMAS}
            assert expected["fitting"] == "OK"
            assert set(expected.values()) == {"OK", "FAILED_PRECONDITION"}
            for first in SCHEMAS:
                for second in SCHEMAS:
                    await running.point(first)
                    assert code(await running.found(pipeline)) == expected[first], (pipeline, first)
                    await running.point(second)
                    assert code(await running.found(pipeline)) == expected[second], (pipeline, first, second)


@pytest.mark.parametrize("schema", ["other dimensions", "wrong dimensions"])
async def test_a_field_of_other_dimensions_than_the_model_is_a_failed_precondition(tmp_path: Path, schema: str) -> None:
    async with services_of(tmp_path) as running:
        error = await running.found("default", NAMES[schema])
        assert isinstance(error, PreconditionFailed)
        assert error.reason_name == "MODEL_MISMATCH"
        assert "7 dimensions" in error.message
        assert f"{DIMENSIONS} dimensions" in error.message


async def test_no_search_is_an_internal_error_while_an_alias_moves(tmp_path: Path) -> None:
    async with services_of(tmp_path) as running:
        await running.point("fitting")
        has_ended = False

        async def move() -> None:
            nonlocal has_ended
            for _ in range(8):
                for name in SCHEMAS:
                    await running.point(name)
                    await asyncio.sleep(0)
            has_ended = True

        async def search(pipeline: str) -> Counter[str]:
            seen: Counter[str] = Counter()
            while not has_ended:
                seen[code(await running.found(pipeline))] += 1
            return seen

        searches = [asyncio.create_task(search(one)) for one in ("default", "words", "named", "maxsim") * 2]
        await move()
        seen = [await one for one in searches]
        assert set().union(*seen) <= {"OK", "FAILED_PRECONDITION"}, seen


async def test_a_name_that_changes_between_chunks_and_whole_documents_is_answered(tmp_path: Path) -> None:
    async with services_of(tmp_path, fresh_s=3600) as running:
        long = Document(document_id="long", text=" ".join(f"some words {number}" for number in range(60)))

        async def requests() -> AsyncIterator[pb.IndexRequest]:
            chunking = pb.Chunking(token_count=16)
            yield pb.IndexRequest(collection="chunks", create_collection=True, documents=[long], chunking=chunking)

        assert [ack.outcome async for one in running.search.Index(requests()) for ack in one.acknowledgements] == [1]
        request = pb.SearchRequest(collection="live", query="some words", group_by_parent=True)
        for name in ("chunks", "fitting", "chunks", "fitting"):
            await running.retrieval.SetAlias(
                retrieval_pb.SetAliasRequest(alias=retrieval_pb.Alias(alias="live", collection=name))
            )
            results = (await running.search.Search(request)).results
            parents = [result.parent_id for result in results]
            assert parents == (["long"] if name == "chunks" else [""] * 5)
