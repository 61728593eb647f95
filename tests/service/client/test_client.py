import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from sluice.client import (
    AsyncEmbeddingClient,
    AsyncRerankingClient,
    AsyncRetrievalClient,
    AsyncSearchClient,
    Document,
    EmbeddingClient,
    MetadataValue,
    RerankingClient,
    RetrievalClient,
    RetryPolicy,
    SearchClient,
    Stage,
    StageReport,
    Standing,
    float32_tensor,
    where,
)
from sluice.client.documents import document_proto
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.model_pb2 import ModelRef
from sluice.errors import DeadlineExpired, InvalidRequest, NotFound, Unavailable
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.background import in_background
from tests.support.fake_services import HashingEmbedder, embedding_server
from tests.support.scripted_search import ScriptedSearch, short_lived
from tests.support.servers import reranking_address, retrieval_address
from tests.support.waiting import GUARD_S, longer_and_longer

QUICK = RetryPolicy(initial_s=0.001)
BOOK = Document("a", "All about queues.", "Queues", {"year": 2024, "tags": ["x", "y"], "on": True})


def answering(search: ScriptedSearch, use: Callable[[SearchClient], Any], **options: Any) -> Any:
    """Return the result of using a client with this service."""
    with in_background(search.served()) as address, SearchClient(address, **{"retry": QUICK, **options}) as client:
        return use(client)


async def answering_async(search: ScriptedSearch, use: Callable[[AsyncSearchClient], Any]) -> Any:
    async with search.served() as address, AsyncSearchClient(address, retry=QUICK) as client:
        return await use(client)


def documents(count: int) -> list[Document]:
    return [Document(f"d{number}", f"text {number}") for number in range(count)]


FULL = pb.SearchResponse(
    results=[
        pb.Result(document=document_proto(BOOK), score=0.5, standings=[pb.Standing(stage="dense", rank=2, score=0.25)])
    ],
    degraded=True,
    coverage=0.25,
    stages=[
        pb.StageReport(
            stage="rerank",
            status=pb.StageReport.STATUS_PARTIAL,
            given_count=50,
            kept_count=10,
            duration=Duration(nanos=1_500_000),
            reason="late",
            truncated_count=3,
            dropped_token_count=70,
        )
    ],
    pipeline="default",
    collection_version=7,
    models=[ModelRef(name="m", version="1")],
    duration=Duration(seconds=1),
)


def test_search_sends_the_request_and_reads_the_response() -> None:
    search = ScriptedSearch(answer=FULL)
    answer = answering(
        search, lambda c: c.search("docs", "q", top_k=3, pipeline="fast", filter="year >= 2020", more_queries=["r"])
    )
    assert search.requests == [
        pb.SearchRequest(
            collection="docs",
            query="q",
            top_k=3,
            pipeline="fast",
            filter=where("year >= 2020"),
            more_queries=["r"],
        )
    ]
    assert answer.results[0].document == BOOK
    assert answer.results[0].standings == (Standing("dense", 2, 0.25),)
    assert answer.stages == (StageReport("rerank", "partial", 50, 10, 0.0015, "late", 3, 70),)
    assert (answer.degraded, answer.coverage) == (True, 0.25)
    assert (answer.pipeline, answer.collection_version) == ("default", 7)
    assert (answer.models, answer.duration_s) == (("m@1",), 1.0)


async def test_async_search_returns_the_same_as_sync() -> None:
    given = await answering_async(ScriptedSearch(answer=FULL), lambda c: c.search("docs", "q"))
    assert given.results[0].document == BOOK
    assert given.stages[0].duration_s == 0.0015


def test_search_reads_a_status_of_a_newer_server() -> None:
    newer = pb.SearchResponse(stages=[pb.StageReport(stage="x", status=99)])  # type: ignore[arg-type]
    assert answering(ScriptedSearch(answer=newer), lambda c: c.search("docs", "q")).stages[0].status == "unknown"


def refused_twice() -> ScriptedSearch:
    return ScriptedSearch(refusals=[Unavailable("busy", retry_after_s=0.001), Unavailable("busy")])


def test_call_is_retried_when_rejected() -> None:
    search = refused_twice()
    answering(search, lambda c: c.search("docs", "q"))
    assert len(search.requests) == 3


async def test_async_call_is_retried_when_rejected() -> None:
    search = refused_twice()
    await answering_async(search, lambda c: c.search("docs", "q"))
    assert len(search.requests) == 3


def test_call_fails_once_attempts_are_used_up() -> None:
    search = ScriptedSearch(refusals=[Unavailable("busy")] * 9)
    with pytest.raises(Unavailable, match="busy"):
        answering(search, lambda c: c.search("docs", "q"), retry=RetryPolicy(attempts=2, initial_s=0.001))
    assert len(search.requests) == 2


def test_call_is_not_retried_when_the_server_asks_for_more_time_than_there_is() -> None:
    search = ScriptedSearch(refusals=[Unavailable("busy", retry_after_s=60.0)])
    with pytest.raises(Unavailable) as caught:
        answering(search, lambda c: c.search("docs", "q", timeout_s=5.0))
    assert caught.value.retry_after_s == 60.0
    assert len(search.requests) == 1


def test_other_errors_come_back_as_they_were_raised_and_at_once() -> None:
    reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
    search = ScriptedSearch(refusals=[NotFound("no collection 'docs'", reason=reason)])
    with pytest.raises(NotFound, match="no collection 'docs'") as caught:
        answering(search, lambda c: c.search("docs", "q"))
    assert caught.value.reason_name == "UNKNOWN_COLLECTION"
    assert len(search.requests) == 1


def test_retries_stop_while_most_calls_fail() -> None:
    """With ten tokens, the fifth failure in a row and all later ones are not retried."""
    search = ScriptedSearch(refusals=[Unavailable("busy")] * 100)

    def five_calls(client: SearchClient) -> None:
        for _ in range(5):
            with pytest.raises(Unavailable):
                client.search("docs", "q")

    answering(search, five_calls, retry=RetryPolicy(attempts=4, initial_s=0.001))
    assert len(search.requests) == 4 + 1 + 1 + 1 + 1


def test_timeout_ends_a_call_that_hangs() -> None:
    with pytest.raises(DeadlineExpired):
        answering(ScriptedSearch(hangs=True), lambda c: c.search("docs", "q", timeout_s=0.1))


def test_an_unreachable_server_is_unavailable() -> None:
    with SearchClient("127.0.0.1:1", retry=QUICK) as client, pytest.raises(Unavailable):
        client.search("docs", "q")


def test_invalid_filter_is_rejected_before_anything_is_sent() -> None:
    search = ScriptedSearch()
    with pytest.raises(InvalidRequest, match="column 8"):
        answering(search, lambda c: c.search("docs", "q", filter="year >="))
    assert not search.requests


def test_delete_and_pipelines() -> None:
    search = ScriptedSearch(documents={"a": document_proto(BOOK)})
    assert answering(search, lambda c: c.delete("docs", ["a", "b"])) == 1
    found = answering(search, lambda c: c.pipelines())
    assert [(p.name, p.stages) for p in found] == [("default", (Stage("dense", "retrieve", 50),))]


async def test_async_delete_and_pipelines() -> None:
    search = ScriptedSearch(documents={"a": document_proto(BOOK)})
    assert await answering_async(search, lambda c: c.delete("docs", ["a", "b"])) == 1
    assert [p.name for p in await answering_async(search, lambda c: c.pipelines())] == ["default"]


def test_index_acknowledges_every_document_and_sends_the_opening() -> None:
    search = ScriptedSearch()
    acks = answering(
        search, lambda c: list(c.index("docs", documents(300), create=True, filterable_fields={"y": "number"}))
    )
    assert Counter(ack.document_id for ack in acks) == Counter(d.document_id for d in documents(300))
    assert {ack.outcome for ack in acks} == {"indexed"}
    fields = [pb.FilterableField(name="y", type="number")]
    assert search.openings == [pb.IndexRequest(collection="docs", create_collection=True, filterable_fields=fields)]


def test_index_of_nothing() -> None:
    assert answering(ScriptedSearch(), lambda c: list(c.index("docs", []))) == []


BREAKS = [[1], [64, 64, 64], [130, 1, 200], [300]]


@pytest.mark.parametrize("breaks", BREAKS)
def test_index_resumes_what_was_not_acknowledged(breaks: list[int]) -> None:
    search = ScriptedSearch(breaks=list(breaks))
    acks = answering(search, lambda c: list(c.index("docs", documents(500), max_unacknowledged=192)))
    assert Counter(ack.document_id for ack in acks) == Counter(d.document_id for d in documents(500))
    assert len(search.openings) == 1 + len(breaks)
    assert len(search.documents) == 500


@pytest.mark.parametrize("breaks", BREAKS)
async def test_async_index_resumes_what_was_not_acknowledged(breaks: list[int]) -> None:
    search = ScriptedSearch(breaks=list(breaks))

    async def source() -> AsyncIterator[Document]:
        for document in documents(500):
            yield document

    async def use(client: AsyncSearchClient) -> Any:
        return [ack async for ack in client.index("docs", source(), max_unacknowledged=192)]

    acks = await answering_async(search, use)
    assert Counter(ack.document_id for ack in acks) == Counter(d.document_id for d in documents(500))
    assert len(search.openings) == 1 + len(breaks)


def test_index_resumes_on_a_connection_closed_for_age() -> None:
    search = ScriptedSearch()

    def slow() -> Iterator[Document]:
        pause = threading.Event()
        for number, document in enumerate(documents(640)):
            if number % 64 == 0:
                pause.wait(0.1)
            yield document

    with in_background(short_lived(search, age_ms=300)) as address, SearchClient(address, retry=QUICK) as client:
        acks = list(client.index("docs", slow(), max_unacknowledged=128))
    assert Counter(ack.document_id for ack in acks) == Counter(d.document_id for d in documents(640))
    assert len(search.openings) > 1


def test_index_resumes_after_a_source_slower_than_all_timeouts() -> None:
    search = ScriptedSearch(breaks=[128])

    def pausing() -> Iterator[Document]:
        yield from documents(128)
        search.broken.wait(GUARD_S)
        yield from documents(192)[128:]

    acks = answering(search, lambda c: list(c.index("docs", pausing(), max_unacknowledged=128, patience_s=5.0)))
    assert len(acks) == 192


def test_index_holds_no_more_than_its_limit() -> None:
    search = ScriptedSearch()
    taken = 0

    def counted() -> Iterator[Document]:
        nonlocal taken
        for document in documents(1000):
            taken += 1
            yield document

    def use(client: SearchClient) -> None:
        for acknowledged, _ in enumerate(client.index("docs", counted(), max_unacknowledged=128)):
            assert taken - acknowledged <= 128

    answering(search, use)
    assert search.most_unacknowledged <= 128
    assert max(search.message_sizes) == 64


def index_patiently(client: SearchClient, patience_s: float) -> None:
    list(client.index("docs", documents(64 * 2), patience_s=patience_s))


def test_index_gives_up_when_its_patience_ends() -> None:
    for patience_s in longer_and_longer(0.3):
        search = ScriptedSearch(breaks=[0] * 100_000)
        with pytest.raises(Unavailable, match="broken by the script"):
            answering(search, partial(index_patiently, patience_s=patience_s))
        if len(search.openings) > 1:
            break


def test_index_rejects_only_documents_that_cannot_be_sent() -> None:
    bad: Any = [Document("a", "x", metadata={"year": None}), Document("b", "x" * 5_000_000), Document("c", "fine")]  # type: ignore[dict-item]
    acks = answering(ScriptedSearch(), lambda c: list(c.index("docs", bad)))
    assert {ack.document_id: ack.outcome for ack in acks} == {"a": "failed", "b": "failed", "c": "indexed"}
    messages = {ack.document_id: ack.message for ack in acks}
    assert messages["a"] == "metadata.year: expected a str, number, bool, datetime or list of them, got NoneType"
    assert "expected at most 4,194,304 bytes" in messages["b"]


def test_the_later_of_equal_ids_wins_even_if_a_stream_breaks() -> None:
    search = ScriptedSearch(breaks=[1, 1])
    versions = [Document("same", f"version {number}") for number in range(5)]
    acks = answering(search, lambda c: list(c.index("docs", versions)))
    assert len(acks) == 5
    assert search.documents["same"].text == "version 4"


def test_index_left_by_the_caller_ends_the_stream() -> None:
    search = ScriptedSearch()

    def use(client: SearchClient) -> None:
        acks = client.index("docs", documents(1000))
        next(acks)
        acks.close()  # type: ignore[attr-defined]
        assert search.ended.wait(GUARD_S)

    answering(search, use)


async def test_async_index_left_by_the_caller_ends_the_stream() -> None:
    search = ScriptedSearch()

    async def use(client: AsyncSearchClient) -> None:
        acks: Any = client.index("docs", documents(1000))
        await anext(acks)
        await acks.aclose()

    with in_background(search.served()) as address:
        async with AsyncSearchClient(address) as client:
            await use(client)
        assert search.ended.wait(GUARD_S)


def test_index_passes_on_what_the_source_raises() -> None:
    def failing() -> Iterator[Document]:
        yield Document("a", "x")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        answering(ScriptedSearch(), lambda c: list(c.index("docs", failing())))


def test_metadata_comes_back_as_it_was_sent() -> None:
    metadata: dict[str, MetadataValue] = {
        "s": "text",
        "n": 1.5,
        "i": 7,
        "b": False,
        "t": datetime(2024, 5, 1, 12, 30, 0, 250_000, tzinfo=UTC),
        "l": ["a", "b"],
    }
    answer = pb.SearchResponse(results=[pb.Result(document=document_proto(Document("a", "x", metadata=metadata)))])
    given = answering(ScriptedSearch(answer=answer), lambda c: c.search("docs", "q"))
    assert given.results[0].document.metadata == metadata


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime(2024, 5, 1), "expected a datetime with a time zone"),
        (2**53 + 1, "expected an integer that a 64-bit float holds exactly"),
        (10**400, "expected an integer that a 64-bit float holds exactly"),
        ({"a": 1}, "got dict"),
        ([None], r"metadata\.x\[0\]: expected a str"),
    ],
)
def test_metadata_that_cannot_be_sent_is_rejected(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        document_proto(Document("a", "x", metadata={"x": value}))


def test_embeddings_are_views_that_numpy_does_not_copy() -> None:
    with in_background(embedding_server(HashingEmbedder())) as address, EmbeddingClient(address) as client:
        given = client.embed(["one queue", "two locks"], "query")
        assert [model.dimensions for model in client.models()] == [64]
    assert given.dense is not None
    array = np.asarray(given.dense)
    assert array.shape == (2, 64)
    assert array.dtype == np.float32
    sent: Any = given.dense.obj
    assert np.shares_memory(array, np.frombuffer(sent, dtype=np.float32))
    assert [usage.token_count for usage in given.usage] == [2, 2]
    assert given.model.name == "hashing"


SCHEMA = retrieval_pb.Schema(dense_fields=[retrieval_pb.DenseField(name="v", dimensions=2)])


def upsert() -> retrieval_pb.UpsertRequest:
    """Return a request for two documents whose vectors are the axes."""
    vectors = float32_tensor(np.eye(2, dtype=np.float32), axes=2, field="vectors")
    return retrieval_pb.UpsertRequest(
        collection="docs",
        documents=[document_proto(book) for book in (BOOK, Document("b", "locks"))],
        dense=[retrieval_pb.DenseColumn(field="v", vectors=vectors)],
    )


def retrieve() -> retrieval_pb.RetrieveRequest:
    """Return a request for the document nearest to the first axis."""
    query = float32_tensor(np.array([1, 0], dtype=np.float32), axes=1, field="query")
    queries = [retrieval_pb.FieldQuery(field="v", dense=query, depth=1)]
    return retrieval_pb.RetrieveRequest(collection="docs", queries=queries)


def test_retrieval_client(tmp_path: Path) -> None:
    with in_background(retrieval_address(tmp_path)) as address, RetrievalClient(address) as client:
        assert client.create_collection("docs", SCHEMA).name == "docs"
        assert client.upsert(upsert()).inserted_count == 2
        assert client.count("docs") == 2
        assert list(client.retrieve(retrieve()).rankings[0].document_ids) == ["a"]
        assert client.documents("docs", ["c", "a"]) == [BOOK]
        assert [c.document_count for c in client.collections()] == [2]
        assert client.collection("docs").schema.dense_fields[0].dimensions == 2
        with pytest.raises(InvalidRequest, match="year"):
            client.count("docs", filter="year > 2020")
        assert client.drop_collection("docs") == 2
        with pytest.raises(NotFound, match="no collection 'docs'"):
            client.collection("docs")


async def test_async_retrieval_client(tmp_path: Path) -> None:
    async with retrieval_address(tmp_path) as address, AsyncRetrievalClient(address) as client:
        assert (await client.create_collection("docs", SCHEMA)).name == "docs"
        assert (await client.upsert(upsert())).inserted_count == 2
        assert await client.count("docs") == 2
        assert list((await client.retrieve(retrieve())).rankings[0].document_ids) == ["a"]
        assert await client.documents("docs", ["c", "a"]) == [BOOK]
        assert [c.document_count for c in await client.collections()] == [2]
        assert (await client.collection("docs")).schema.dense_fields[0].dimensions == 2
        assert await client.drop_collection("docs") == 2


def test_retrieval_client_makes_snapshots_and_optimizes(tmp_path: Path) -> None:
    server = retrieval_address(tmp_path / "data", snapshots=tmp_path / "snapshots")
    with in_background(server) as address, RetrievalClient(address) as client:
        client.create_collection("docs", SCHEMA)
        client.upsert(upsert())
        assert client.optimize_collection("docs").after.part_count == 1
        first = client.create_snapshot().snapshot
        second = client.create_snapshot("second", keep=1)
        assert list(second.deleted) == [first.name]
        assert client.snapshots() == [second.snapshot]
        client.delete_snapshot("second")
        assert not client.snapshots()


async def test_async_retrieval_client_makes_snapshots_and_optimizes(tmp_path: Path) -> None:
    server = retrieval_address(tmp_path / "data", snapshots=tmp_path / "snapshots")
    async with server as address, AsyncRetrievalClient(address) as client:
        await client.create_collection("docs", SCHEMA)
        assert (await client.optimize_collection("docs")).after.part_count == 0
        made = (await client.create_snapshot(keep=3)).snapshot
        assert await client.snapshots() == [made]
        await client.delete_snapshot(made.name)
        with pytest.raises(NotFound, match="no snapshot"):
            await client.delete_snapshot(made.name)


def test_a_snapshot_may_take_longer_than_a_call(tmp_path: Path) -> None:
    """The server ends every call soon, its work continues, and the client calls again."""
    with in_background(retrieval_address(tmp_path / "data")) as address, RetrievalClient(address) as client:
        client.create_collection("docs", SCHEMA)
        client.upsert(upsert())
    hurried = retrieval_address(tmp_path / "data", snapshots=tmp_path / "snapshots", max_deadline_s=0.01)
    with in_background(hurried) as address, RetrievalClient(address) as client:
        assert client.create_snapshot("slow").snapshot.collections[0].document_count == 2


async def test_async_embedding_client() -> None:
    async with embedding_server(HashingEmbedder()) as address, AsyncEmbeddingClient(address) as client:
        given = await client.embed(["one queue", "a"], "document", representations=["dense", "multi_vector", "sparse"])
        assert given.dense is not None
        assert given.dense.shape == (2, 64)
        assert [block.shape for block in given.multi_vector] == [(2, 64), (1, 64)]
        assert given.sparse is not None
        assert list(given.sparse.term_counts) == [2, 1]
        assert len(await client.models()) == 1


def test_reranking_client(tiny_bi_encoder: Path) -> None:
    with in_background(reranking_address(tiny_bi_encoder)) as address, RerankingClient(address) as client:
        scored = client.rerank("a queue", ["a lock", "a queue"])
        assert [document.index for document in scored] == [1, 0]
        assert [document.index for document in client.rerank("a queue", ["a lock", "a queue"], top_k=1)] == [1]
        assert len(client.models()) == 1


async def test_async_reranking_client(tiny_bi_encoder: Path) -> None:
    async with reranking_address(tiny_bi_encoder) as address, AsyncRerankingClient(address) as client:
        assert [document.index for document in await client.rerank("a queue", ["a lock", "a queue"])] == [1, 0]
        assert len(await client.models()) == 1


def test_tensor_of_another_buffer_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="vectors: expected a contiguous float32 buffer with 2 axes"):
        float32_tensor(np.zeros((2, 2)), axes=2, field="vectors")
