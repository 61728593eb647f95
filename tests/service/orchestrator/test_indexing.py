import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.common.v1.model_pb2 import Windows
from sluice.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    SluiceError,
    Unavailable,
    Violation,
    from_rpc_error,
)
from sluice.search.v1 import search_service_pb2 as pb

from services.orchestrator.downstream.embedding import EmbeddingClient
from services.orchestrator.downstream.reranking import RerankingClient
from services.orchestrator.downstream.retrieval import RetrievalClient
from services.orchestrator.downstream.services import Services
from services.orchestrator.indexing.messages import Message, StreamHeader
from services.orchestrator.indexing.stream import IndexStream
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.client.downstream import Downstream
from tests.support.fake_services import (
    DIMENSIONS,
    ExactRetrieval,
    HashingEmbedder,
    embedding_server,
    index,
    retrieval_server,
    system,
)
from tests.support.waiting import longer_and_longer

INDEXED = pb.Acknowledgement.OUTCOME_INDEXED
UNCHANGED = pb.Acknowledgement.OUTCOME_UNCHANGED
FAILED = pb.Acknowledgement.OUTCOME_FAILED


def document(number: int, text: str = "some words") -> Document:
    return Document(document_id=f"d{number:03}", title=f"Title {number}", text=text)


def outcomes(acknowledgements: list[pb.Acknowledgement]) -> dict[str, Any]:
    assert len({known.document_id for known in acknowledgements}) == len(acknowledgements)
    return {known.document_id: known.outcome for known in acknowledgements}


async def ended(
    call: grpc.aio.StreamStreamCall[pb.IndexRequest, pb.IndexResponse],
) -> tuple[list[pb.Acknowledgement], SluiceError]:
    """Return the acknowledgements of a stream that fails, and its error."""
    known: list[pb.Acknowledgement] = []
    try:
        while isinstance(response := await call.read(), pb.IndexResponse):
            known.extend(response.acknowledgements)
    except grpc.RpcError as error:
        return known, from_rpc_error(error)
    pytest.fail("the stream ended well")


async def messages(*requests: pb.IndexRequest) -> AsyncIterator[pb.IndexRequest]:
    for request in requests:
        yield request


async def test_index_creates_the_collection_for_the_served_model() -> None:
    async with system() as running:
        fields = [pb.FilterableField(name="year", type="number")]
        known = await index(running, [document(1)], filterable_fields=fields)
        assert outcomes(known) == {"d001": INDEXED}
        [dense] = running.retrieval.collections["books"].schema.dense_fields
        assert (dense.name, dense.dimensions, dense.model_digest) == ("dense", DIMENSIONS, running.embedder.digest)
        [field] = running.retrieval.collections["books"].schema.metadata_fields
        assert field.name == "year"


async def test_index_acknowledges_every_document_of_a_long_stream_once() -> None:
    async with system() as running:
        parts = [
            pb.IndexRequest(
                collection="" if part else "books",
                create_collection=not part,
                documents=[document(number) for number in range(100 * part, 100 * part + 100)],
            )
            for part in range(3)
        ]
        known = [k async for r in running.search.Index(messages(*parts)) for k in r.acknowledgements]
        assert Counter(outcomes(known).values()) == {INDEXED: 300}
        assert len(running.retrieval.collections["books"].documents) == 300
        sizes = [len(request.documents) for method, request in running.retrieval.calls if method == "Upsert"]
        assert max(sizes) <= 32
        assert len(sizes) < 20


async def test_index_embeds_title_and_text_as_documents_in_the_bulk_lane() -> None:
    async with system() as running:
        await index(running, [document(1), Document(document_id="x", text="only text")])
        requests = [request for method, request in running.embedder.calls if method == "Embed"]
        assert sorted(text for request in requests for text in request.texts) == ["Title 1\nsome words", "only text"]
        assert {(request.role, request.lane) for request in requests} == {(2, 2)}


async def test_index_of_equal_documents_again_does_no_model_work() -> None:
    async with system() as running:
        books = [document(number) for number in range(10)]
        await index(running, books)
        before = running.embedder.count("Embed")
        changed = Document(document_id="d003", title="Title 3", text="some words")
        changed.metadata["year"].CopyFrom(MetadataValue(number_value=2020))
        known = await index(running, [*books[:3], changed, *books[4:]])
        assert outcomes(known) == {b.document_id: INDEXED if b.document_id == "d003" else UNCHANGED for b in books}
        assert running.embedder.count("Embed") == before + 1


async def test_index_fails_invalid_documents_only() -> None:
    async with system() as running:
        known = await index(
            running,
            [
                document(1),
                Document(text="no id"),
                Document(document_id="d002", text=" \n"),
                document(3, text="x" * 65_536),
                document(1, text="again"),
                Document(document_id="i" * 513, text="x"),
                document(4),
            ],
        )
        good = {k.document_id for k in known if k.outcome == INDEXED}
        assert good == {"d001", "d004"}
        told = sorted(k.message for k in known if k.outcome == FAILED)
        assert told == [
            "documents[1].document_id: expected 1 to 512 bytes, got none",
            "documents[2].text: expected a title or a text, got only white space",
            "documents[3].text: expected at most 65,536 bytes with the title, got 65,544",
            "documents[4].document_id: expected unique ids in one message, got this one again; only the first counts",
            "documents[5].document_id: expected at most 512 bytes, got 513",
        ]
        assert {k.reason for k in known if k.outcome == FAILED} == {"INVALID_REQUEST"}
        assert running.retrieval.collections["books"].documents["d001"].text == "some words"


async def test_index_fails_documents_that_a_service_refuses_and_stores_the_others() -> None:
    async with system() as running:

        async def refuse(method: str) -> None:
            request = running.retrieval.calls[-1][1]
            bad = [i for i, d in enumerate(request.documents) if "year" in d.metadata] if method == "Upsert" else []
            violations = [Violation(f"documents[{i}].metadata.year", "expected a number, got a string") for i in bad]
            if violations:
                raise InvalidRequest(violations[0].description, violations=violations)

        running.retrieval.before = refuse
        bad = document(2)
        bad.metadata["year"].CopyFrom(MetadataValue(string_value="then"))
        known = await index(running, [document(1), bad, document(3)])
        assert outcomes(known) == {"d001": INDEXED, "d002": FAILED, "d003": INDEXED}
        [failed] = [k for k in known if k.outcome == FAILED]
        assert failed.message == "metadata.year: expected a number, got a string"


async def test_index_keeps_the_last_document_of_an_id() -> None:
    async with system() as running:
        first = pb.IndexRequest(collection="books", create_collection=True, documents=[document(1, "old")])
        parts = [first, *(pb.IndexRequest(documents=[document(1, text)]) for text in ("new", "old", "newest"))]
        known = [k async for r in running.search.Index(messages(*parts)) for k in r.acknowledgements]
        assert [k.outcome for k in known] == [INDEXED] * 4
        assert running.retrieval.collections["books"].documents["d001"].text == "newest"


async def test_index_acknowledges_before_the_caller_sends_more() -> None:
    """A caller that waits for each acknowledgement before it sends more must not wait forever."""

    async with system() as running:
        call = running.search.Index()
        await call.write(pb.IndexRequest(collection="books", create_collection=True, documents=[document(0)]))
        for number in range(1, 4):
            response = await call.read()
            assert isinstance(response, pb.IndexResponse)
            assert response.acknowledgements[0].document_id == f"d{number - 1:03}"
            await call.write(pb.IndexRequest(documents=[document(number)]))
        await call.done_writing()
        assert isinstance(await call.read(), pb.IndexResponse)
        assert await call.read() is grpc.aio.EOF


async def written_until_blocked(call: Any, is_busy: Callable[[], bool]) -> tuple[int, "asyncio.Future[Any]"]:
    """Return how many documents were written until a write blocked, and that write."""
    await call.write(pb.IndexRequest(collection="books", create_collection=True))
    for sent in range(1, 5000):
        written = asyncio.ensure_future(call.write(pb.IndexRequest(documents=[document(sent, "x " * 5_000)])))
        while not (await asyncio.wait({written}, timeout=1.0))[0]:
            if is_busy():
                return sent, written
    raise AssertionError("nothing stopped the writing")


async def acknowledged(call: Any) -> int:
    """Return how many documents the rest of a stream acknowledges."""
    count = 0
    while isinstance(response := await call.read(), pb.IndexResponse):
        count += len(response.acknowledgements)
    return count


async def test_index_stops_reading_while_it_is_busy() -> None:
    """The writes of the caller block while a batch is being stored, and continue after it."""

    async with system() as running:
        hold = asyncio.Event()

        async def wait(method: str) -> None:
            if method == "Upsert":
                await hold.wait()

        running.retrieval.before = wait
        call = running.search.Index()
        reading = asyncio.create_task(acknowledged(call))
        sent, written = await written_until_blocked(call, lambda: running.retrieval.count("Upsert") > 0)
        assert running.retrieval.count("Upsert") == 1
        hold.set()
        await written
        await call.done_writing()
        assert await reading == sent


async def test_index_embeds_a_batch_while_the_previous_one_is_stored() -> None:
    async with system() as running:
        embedded = asyncio.Event()

        async def note(method: str) -> None:
            if running.embedder.count("Embed") == 2:
                embedded.set()

        async def wait(method: str) -> None:
            if method == "Upsert":
                await embedded.wait()

        running.embedder.before, running.retrieval.before = note, wait
        assert len(await index(running, [document(number) for number in range(60)])) == 60


async def test_index_into_an_unknown_collection_is_not_found() -> None:
    async with system() as running:
        request = pb.IndexRequest(collection="books", documents=[document(1)])
        known, error = await ended(running.search.Index(messages(request)))
        assert not known
        assert isinstance(error, NotFound)


async def test_index_with_another_model_than_the_collection_was_made_for_is_a_failed_precondition() -> None:
    async with system() as running:
        await index(running, [document(1)])
        running.embedder.digest = "f" * 64
        request = pb.IndexRequest(collection="books", documents=[document(2)])
        _, error = await ended(running.search.Index(messages(request)))
        assert isinstance(error, PreconditionFailed)
        assert error.reason_name == "MODEL_MISMATCH"
        assert "dddddddddddd" in error.message
        assert "ffffffffffff" in error.message


async def test_index_into_new_fields_that_the_model_cannot_fill_creates_nothing() -> None:
    async with system(index_fields=["dense", "sparse"]) as running:
        running.embedder.representations = running.embedder.representations[:1]
        request = pb.IndexRequest(collection="books", create_collection=True, documents=[document(1)])
        _, error = await ended(running.search.Index(messages(request)))
        assert isinstance(error, PreconditionFailed)
        assert "one model with sparse vectors for new collections" in error.message
        assert "hashing with dense" in error.message
        assert not running.retrieval.collections


async def test_index_with_other_filterable_fields_than_the_collection_has_is_already_exists() -> None:
    async with system() as running:
        await index(running, [document(1)])
        fields = [pb.FilterableField(name="year", type="number")]
        request = pb.IndexRequest(collection="books", create_collection=True, filterable_fields=fields)
        _, error = await ended(running.search.Index(messages(request)))
        assert isinstance(error, AlreadyExists)
        assert "'year'" in error.message


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([pb.IndexRequest(documents=[document(1)])], "collection"),
        ([pb.IndexRequest(collection="books", create_collection=True), pb.IndexRequest(collection="x")], "collection"),
        ([pb.IndexRequest(collection="books", documents=[document(n) for n in range(257)])], "documents"),
        ([pb.IndexRequest(collection="books", filterable_fields=[pb.FilterableField(type="date")])], "filterable"),
    ],
)
async def test_index_ends_with_a_message_that_breaks_a_rule(requests: list[pb.IndexRequest], field: str) -> None:
    async with system() as running:
        _, error = await ended(running.search.Index(messages(*requests)))
        assert isinstance(error, InvalidRequest)
        assert error.violations[0].field.startswith(field)


async def test_index_that_stays_idle_ends_as_unavailable() -> None:
    told: dict[str, Any] = {}

    for idle_s in longer_and_longer(0.3):
        async with system(idle_timeout_s=idle_s) as running:
            call = running.search.Index()
            await call.write(pb.IndexRequest(collection="books", create_collection=True, documents=[document(1)]))
            known, error = await ended(call)
            told.update(outcomes(known))
            assert isinstance(error, Unavailable)
            assert error.reason_name == "STREAM_IDLE"
        if told:
            break
    assert told == {"d001": INDEXED}


async def test_index_with_messages_without_documents_is_idle_too() -> None:
    async def without_documents() -> AsyncIterator[Message]:
        yield Message(StreamHeader("books", create=True, filterable={}), [])
        while True:
            await asyncio.sleep(0)
            yield Message(None, [])

    embedder, retrieval = HashingEmbedder(), ExactRetrieval()
    async with (
        embedding_server(embedder) as embedding,
        retrieval_server(retrieval) as address,
        grpc.aio.insecure_channel(embedding) as to_embedding,
        grpc.aio.insecure_channel(address) as to_retrieval,
    ):
        services = Services(
            EmbeddingClient(to_embedding, Downstream("embedding")),
            RetrievalClient(to_retrieval, Downstream("retrieval")),
            RerankingClient(to_retrieval, Downstream("reranking")),
        )
        stream = IndexStream(services, OrchestratorSettings(idle_timeout_s=0.3).index_limits())
        with pytest.raises(Unavailable, match=r"no document arrived for 0\.3 s"):
            await anext(stream.acknowledgements(without_documents()))


async def test_a_stream_that_ends_under_a_write_is_unavailable() -> None:
    """Here grpc.aio usually reports INTERNAL to its caller."""

    async def endless() -> AsyncIterator[pb.IndexRequest]:
        yield pb.IndexRequest(collection="books", create_collection=True)
        while True:
            yield pb.IndexRequest()
            await asyncio.sleep(0)

    async with system(idle_timeout_s=0.02) as running:
        for _ in range(10):
            with pytest.raises(grpc.RpcError) as caught:
                await anext(aiter(running.search.Index(endless())))
            assert isinstance(from_rpc_error(caught.value), Unavailable)


async def test_index_without_any_message_ends_without_an_error() -> None:
    async with system() as running:
        assert [response async for response in running.search.Index(messages())] == []


class RetrievalWithoutWindows(ExactRetrieval):
    """A retrieval service of a version that does not know windows."""

    async def CreateCollection(self, request: Any, context: Any) -> Any:
        request.schema.ClearField("windows")
        return await super().CreateCollection(request, context)


async def test_windows_that_an_older_retrieval_service_does_not_store_are_refused() -> None:
    async with retrieval_server(RetrievalWithoutWindows()) as retrieval, system(retrieval=retrieval) as running:
        first = pb.IndexRequest(collection="books", create_collection=True, windows=Windows(overlap_token_count=8))
        _, error = await ended(running.search.Index(messages(first)))
        assert isinstance(error, PreconditionFailed)
        assert "the retrieval service does not store them with collection 'books'" in error.message
