"""Indexing into a busy system: batches shrink, wait and grow again, and the stream ends only when patience ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice.client import Document, SearchClient
from sluice.common.v1 import document_pb2
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import SluiceError, Unavailable, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

from services.orchestrator.server import build
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.server.lifecycle import serving
from tests.support.fake_services import (
    ExactRetrieval,
    HashingEmbedder,
    System,
    embedding_server,
    index,
    retrieval_server,
    system,
)
from tests.support.faults import failure
from tests.support.slow_model import SLOW_WORD, with_slow_word
from tests.support.system import running_system

NOWHERE = "127.0.0.1:1"
INDEXED = pb.Acknowledgement.OUTCOME_INDEXED


async def collect(call: Any, known: list[pb.Acknowledgement]) -> None:
    """Read acknowledgements to the end of a stream."""
    while isinstance(response := await call.read(), pb.IndexResponse):
        known.extend(response.acknowledgements)


def documents(count: int) -> list[document_pb2.Document]:
    return [
        document_pb2.Document(document_id=f"d{number:03}", text=f"word{number} some text") for number in range(count)
    ]


def busy(texts: int, most: int) -> Unavailable:
    return Unavailable(
        f"expected to take {texts} s with {most} s left; nothing was done",
        reason=ErrorReason.ERROR_REASON_OVERLOADED,
        retry_after_s=0.001 * (texts - most),
    )


def sizes(running: System) -> list[int]:
    """Return the sizes of all batches that the embedding service received."""
    return [len(request.texts) for method, request in running.embedder.calls if method == "Embed"]


def stored_once(running: System, known: list[pb.Acknowledgement], count: int) -> None:
    assert Counter(one.outcome for one in known) == {INDEXED: count}
    assert len({one.document_id for one in known}) == count
    assert len(running.retrieval.collections["books"].documents) == count
    upserted = Counter(
        one.document_id
        for method, request in running.retrieval.calls
        if method == "Upsert"
        for one in request.documents
    )
    assert set(upserted.values()) == {1}


@pytest.mark.parametrize("most", [1, 5, 16])
async def test_batches_shrink_to_what_the_embedding_service_accepts(most: int) -> None:
    async with system() as running:

        async def refuse(method: str) -> None:
            if method == "Embed" and (texts := sizes(running)[-1]) > most:
                raise busy(texts, most)

        running.embedder.before = refuse
        stored_once(running, await index(running, documents(200)), 200)
        assert min(size for size in sizes(running)) <= most


async def test_batches_grow_again_when_there_is_capacity() -> None:
    async with system() as running:

        async def refuse_at_first(method: str) -> None:
            if method == "Embed" and len(sizes(running)) < 4:
                raise busy(sizes(running)[-1], 1)

        running.embedder.before = refuse_at_first
        stored_once(running, await index(running, documents(200)), 200)
        assert max(sizes(running)[4:]) > 8


async def test_a_batch_that_takes_too_long_is_sent_again_smaller() -> None:
    async with system(batch_timeout_s=0.5) as running:

        async def hang_over_many(method: str) -> None:
            if method == "Embed" and sizes(running)[-1] > 8:
                await asyncio.Event().wait()

        running.embedder.before = hang_over_many
        stored_once(running, await index(running, documents(60)), 60)


async def test_batches_shrink_to_what_retrieval_accepts_without_embedding_twice() -> None:
    async with system() as running:

        async def refuse(method: str) -> None:
            texts = len(running.retrieval.calls[-1][1].documents) if method == "Upsert" else 0
            if texts > 3:
                raise busy(texts, 3)

        running.retrieval.before = refuse
        known = await index(running, documents(100))
        assert Counter(one.outcome for one in known) == {INDEXED: 100}
        assert len(running.retrieval.collections["books"].documents) == 100
        assert sum(sizes(running)) == 100


async def test_chunks_of_one_document_are_embedded_in_parts_that_fit() -> None:
    async with system() as running:

        async def refuse(method: str) -> None:
            if method == "Embed" and (texts := sizes(running)[-1]) > 2:
                raise busy(texts, 2)

        running.embedder.before = refuse
        long = document_pb2.Document(document_id="long", text=" ".join(f"word{number}" for number in range(400)))
        [known] = await index(running, [long], chunking=pb.Chunking(token_count=16))
        assert known.outcome == INDEXED
        assert max(sizes(running)[-3:]) <= 3


async def test_a_stream_that_is_always_rejected_ends_with_what_was_stored() -> None:
    async with system(patience_s=0.3) as running:

        async def refuse_after_some(method: str) -> None:
            if method == "Embed" and len(sizes(running)) > 2:
                raise busy(35, 16)

        running.embedder.before = refuse_after_some

        async def requests() -> AsyncIterator[pb.IndexRequest]:
            yield pb.IndexRequest(collection="books", create_collection=True, documents=documents(200))

        known: list[Any] = []
        call = running.search.Index(requests())
        with pytest.raises(grpc.RpcError) as caught:
            await collect(call, known)
        error = from_rpc_error(caught.value)
        assert isinstance(error, Unavailable)
        assert error.reason_name == "OVERLOADED"
        assert f"for 0.3 s; {len(known):,} documents of this stream are stored" in error.message
        assert "expected to take 35 s with 16 s left" in error.message
        assert len(known) == len(running.retrieval.collections["books"].documents)


async def test_a_stream_that_waits_for_capacity_ends_at_once_when_the_server_drains() -> None:
    """The service asks for a wait that is longer than the time of the test."""

    async def ended(**addresses: Any) -> SluiceError:
        settings = OrchestratorSettings(
            listen="127.0.0.1:0", reranking=NOWHERE, drain_grace_s=100.0, patience_s=80_000.0, **addresses
        )
        async with AsyncExitStack() as server:
            running = await server.enter_async_context(serving(settings, lambda: build(settings)))
            async with grpc.aio.insecure_channel(running.address) as channel:
                call = SearchServiceStub(channel).Index()
                opening = pb.IndexRequest(collection="books", create_collection=True, documents=documents(3))
                await call.write(opening)
                await refused.wait()
                closing = asyncio.create_task(server.aclose())
                error = await failure(collect(call, []))
                await closing
        return error

    refused = asyncio.Event()

    async def refuse(method: str) -> None:
        if method == "Embed":
            refused.set()
            raise Unavailable("busy", reason=ErrorReason.ERROR_REASON_OVERLOADED, retry_after_s=50_000.0)

    embedder = HashingEmbedder(before=refuse)
    async with embedding_server(embedder) as embedding, retrieval_server(ExactRetrieval()) as retrieval:
        error = await ended(embedding=embedding, retrieval=retrieval)
    assert error.reason_name == "DRAINING"


@pytest.mark.slow
def test_a_slow_model_is_indexed_into_and_nothing_is_lost(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    """A real server with a model so slow that a call with 32 documents never ends in time."""
    slow = with_slow_word(tiny_bi_encoder, tmp_path / "slow", turns=2_000)
    texts = [Document(f"d{number}", f"the {SLOW_WORD} number {number}") for number in range(48)]
    with running_system(tmp_path, slow, "--max-deadline-s", "1") as running, SearchClient(running.address) as client:
        known = list(client.index("books", texts, create=True))
        assert Counter(one.outcome for one in known) == {"indexed": 48}
        assert len({one.document_id for one in known}) == 48
