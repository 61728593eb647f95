"""Index streams while services stop or fail, and searches during a rolling restart."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import BackendFailed, DeadlineExpired, SluiceError, Unavailable, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

from services.orchestrator.server import build
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.server.lifecycle import serving
from tests.support.fake_services import (
    PIPELINES,
    ExactRetrieval,
    HashingEmbedder,
    OverlapReranker,
    System,
    embedding_server,
    index,
    orchestrator,
    reranking_server,
    retrieval_server,
)
from tests.support.faults import BOOKS, SEARCH, always, failure, hang, indexed_system, run
from tests.support.waiting import GUARD_S, longer_and_longer


async def test_a_caller_that_disconnects_stops_its_index_stream() -> None:
    async with indexed_system() as running:
        reached = asyncio.Event()

        async def hang_here(method: str) -> None:
            reached.set()
            await hang(method)

        running.embedder.before = hang_here
        call = running.search.Index()
        await call.write(pb.IndexRequest(collection="books", documents=[Document(document_id="n", text="new")]))
        await reached.wait()
        call.cancel()
        await running.embedder.cancelled.wait()


@pytest.mark.parametrize("error", [Unavailable("restarting"), BackendFailed("broken")])
def test_an_index_stream_ends_with_the_error_of_a_service(error: SluiceError) -> None:
    seen: list[type[SluiceError]] = []

    async def check(running: System) -> None:
        running.embedder.before = always(error)
        ended = await failure(index(running, [Document(document_id="n", text="new")]))
        seen.append(type(ended))
        assert "n" not in running.retrieval.collections["books"].documents

    for batch_s in longer_and_longer(0.5):
        run(check, batch_timeout_s=batch_s, patience_s=batch_s)
        if not issubclass(seen[-1], DeadlineExpired):  # on a busy machine, the time of the batch was over first
            break
    assert seen[-1] is type(error)


async def test_an_index_stream_whose_batches_time_out_is_unavailable() -> None:
    async with indexed_system(batch_timeout_s=0.5, patience_s=0.5) as running:

        async def hang_to_embed(method: str) -> None:
            if method == "Embed":
                await hang(method)

        running.embedder.before = hang_to_embed
        ended = await failure(index(running, [Document(document_id="n", text="new")]))
        assert isinstance(ended, Unavailable)
        assert "no document could be stored for 0.5 s; 0 documents of this stream are stored" in ended.message


async def test_an_index_stream_survives_an_embedding_service_that_restarts() -> None:
    embedder, retrieval = HashingEmbedder(), ExactRetrieval()
    async with retrieval_server(retrieval) as retrieval_address:
        async with embedding_server(embedder) as address:
            pass  # the port is known, and free again
        settings = {"embedding": address, "retrieval": retrieval_address, "reranking": "127.0.0.1:1"}
        async with orchestrator(listen="127.0.0.1:0", drain_grace_s=0.0, **settings) as (search, _):
            call = search.Index()
            document = Document(document_id="n", text="new")
            await call.write(pb.IndexRequest(collection="books", create_collection=True, documents=[document]))
            async with embedding_server(embedder, listen=address):
                response = await call.read()
                assert isinstance(response, pb.IndexResponse)
                assert response.acknowledgements[0].outcome == pb.Acknowledgement.OUTCOME_INDEXED
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF


async def acknowledged(call: Any) -> tuple[list[str], SluiceError]:
    """Return the ids that a stream acknowledged until it failed, and its error."""
    known: list[str] = []
    try:
        while isinstance(response := await call.read(), pb.IndexResponse):
            known.extend(item.document_id for item in response.acknowledgements)
    except grpc.RpcError as error:
        return known, from_rpc_error(error)
    raise AssertionError("the stream ended well")


async def test_a_server_that_stops_ends_an_index_stream_after_what_was_read() -> None:
    """Everything that was read is acknowledged; the caller sends the rest again."""

    async def stopped(stand_in: ExactRetrieval, **addresses: Any) -> tuple[list[str], SluiceError]:
        stored, go_on = asyncio.Event(), asyncio.Event()

        async def wait(method: str) -> None:
            if method == "Upsert":
                stored.set()
                await go_on.wait()

        stand_in.before = wait
        settings = OrchestratorSettings(listen="127.0.0.1:0", drain_grace_s=GUARD_S, **addresses)
        async with AsyncExitStack() as server:
            running = await server.enter_async_context(serving(settings, lambda: build(settings)))
            async with grpc.aio.insecure_channel(running.address) as channel:
                call = SearchServiceStub(channel).Index()
                await call.write(pb.IndexRequest(collection="books", create_collection=True, documents=BOOKS))
                reading = asyncio.create_task(acknowledged(call))
                await stored.wait()
                closing = asyncio.create_task(server.aclose())
                go_on.set()
                ended = await reading
                await closing
        return ended

    retrieval = ExactRetrieval()
    async with embedding_server(HashingEmbedder()) as embedding, retrieval_server(retrieval) as address:
        known, error = await stopped(retrieval, embedding=embedding, retrieval=address, reranking="127.0.0.1:1")
    assert isinstance(error, Unavailable)
    assert error.reason_name == "DRAINING"
    assert sorted(known) == sorted(retrieval.collections["books"].documents) == [b.document_id for b in BOOKS]


async def test_a_rolling_restart_of_two_replicas_fails_no_search() -> None:
    retrieval = ExactRetrieval()
    async with retrieval_server(retrieval) as retrieval_address, AsyncExitStack() as replicas:
        patient = {"drain_grace_s": GUARD_S}
        embedders = [await replica(replicas, embedding_server(HashingEmbedder(), **patient)) for _ in "ab"]
        rerankers = [await replica(replicas, reranking_server(OverlapReranker(), **patient)) for _ in "ab"]
        addresses = {
            "embedding": "ipv4:" + ",".join(address for address, _ in embedders),
            "retrieval": retrieval_address,
            "reranking": "ipv4:" + ",".join(address for address, _ in rerankers),
            "pipelines": PIPELINES,
        }
        async with orchestrator(listen="127.0.0.1:0", drain_grace_s=0.0, **addresses) as (search, channel):
            system = System(search, channel, HashingEmbedder(), retrieval, OverlapReranker())
            await index(system, BOOKS)
            stopped = asyncio.Event()
            loops = [asyncio.create_task(search_until(stopped, system)) for _ in range(4)]
            await embedders[0][1]()
            again = embedding_server(HashingEmbedder(), listen=embedders[0][0], **patient)
            await replicas.enter_async_context(again)
            await embedders[1][1]()
            await rerankers[0][1]()
            again = reranking_server(OverlapReranker(), listen=rerankers[0][0], **patient)
            await replicas.enter_async_context(again)
            await rerankers[1][1]()
            stopped.set()
            answers = [answer for loop in loops for answer in await loop]
    assert len(answers) >= 4
    assert not any(answer.degraded for answer in answers)


async def replica(stack: AsyncExitStack, server: Any) -> tuple[str, Callable[[], Awaitable[None]]]:
    """Return the address of a started server, and a function that stops it before the stack does."""
    own = await stack.enter_async_context(AsyncExitStack())
    return await own.enter_async_context(server), own.aclose


async def search_until(stopped: asyncio.Event, system: System) -> list[pb.SearchResponse]:
    """Return the answers of consecutive searches, at least one."""
    answers: list[pb.SearchResponse] = []
    while not answers or not stopped.is_set():
        answers.append(await system.search.Search(SEARCH, timeout=20.0))
    return answers
