"""Searches while everything is slow, orchestrators restart or the clock jumps, and callers that do not read."""

import ast
import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice import client
from sluice.common.v1.document_pb2 import Document
from sluice.errors import DeadlineExpired, Unavailable, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb

from services.orchestrator.search.budget import allowance_s, has_time_for, reserve_s
from services.orchestrator.server import build
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.client.breaker import Breaker
from services.rpc.deadline import Deadline
from services.rpc.server.lifecycle import serving
from tests.support.fake_services import (
    ExactRetrieval,
    HashingEmbedder,
    OverlapReranker,
    System,
    embedding_server,
    reranking_server,
    retrieval_server,
)
from tests.support.faults import BOOKS, SEARCH, ignoring, indexed_system, run, search_with_time
from tests.support.waiting import GUARD_S

ROOT = Path(__file__).parents[3]


class Slow:
    """A slow service that counts its running calls."""

    def __init__(self, seconds: float) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._seconds = seconds
        self._under_way = 0

    async def __call__(self, method: str) -> None:
        self._under_way += 1
        self.idle.clear()
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.idle.set()


async def test_all_services_slow_at_once_under_load_end_every_search_and_leave_nothing_behind() -> None:
    async with indexed_system() as running:
        troubled = (running.embedder, running.retrieval, running.reranker)
        easy, slow = running.embedder.before, Slow(0.4)
        for one in troubled:
            one.before = slow
        calls = [running.search.Search(SEARCH, timeout=1.0 + 0.1 * number) for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
        assert len(answers) == 20
        assert {type(from_rpc_error(error)) for error in failed} <= {DeadlineExpired, Unavailable}
        assert all(len(answer.results) == 5 for answer in answers if isinstance(answer, pb.SearchResponse))
        await slow.idle.wait()  # what was begun is cancelled, or ends by itself
        for one in troubled:
            one.before = easy
        answer = None
        while answer is None or answer.degraded:  # a breaker that opened lets a probe through within a second
            with ignoring(Unavailable):
                answer = await running.search.Search(SEARCH, timeout=30.0)
        assert len(answer.results) == 5


def test_a_slow_reranker_scores_what_it_has_time_for() -> None:
    async def check(running: System) -> None:
        async def slower_each_time(method: str) -> None:
            if running.reranker.count("Rerank") > 2:
                await asyncio.Event().wait()

        running.reranker.before = slower_each_time
        request = pb.SearchRequest(collection="books", query="word3", top_k=40)

        def is_scored(answer: pb.SearchResponse) -> bool:
            running.reranker.calls.clear()
            [rerank] = [stage for stage in answer.stages if stage.stage == "rerank"]
            return (rerank.status, rerank.scored_count) == (pb.StageReport.STATUS_PARTIAL, 32)

        answer = await search_with_time(running.search, request, is_scored, first_s=3.0)
        assert len(answer.results) == 40

    run(check)


async def test_a_rolling_restart_of_two_orchestrators_fails_no_search(tmp_path: Path) -> None:
    """As in a rollout: a replica stops after the previous one answers again. The stages show which replica answered."""
    retrieval, seen = ExactRetrieval(), Seen()
    async with (
        embedding_server(HashingEmbedder()) as embedding,
        retrieval_server(retrieval) as address,
        reranking_server(OverlapReranker()) as reranking,
        AsyncExitStack() as stack,
    ):
        common = {"embedding": embedding, "retrieval": address, "reranking": reranking, "drain_grace_s": GUARD_S}

        async def start(name: str, listen: str = "127.0.0.1:0") -> tuple[str, Callable[[], Awaitable[None]]]:
            file = tmp_path / f"{name}.yaml"
            stage = f"{{name: {name}, kind: dense, depth: 10}}"
            file.write_text(f"default:\n  description: Of {name}.\n  retrieve: [{stage}]\n")
            return await replica(stack, listen=listen, pipelines=file, **common)

        replicas = [await start("old-a"), await start("old-b")]
        target = "ipv4:" + ",".join(at for at, _ in replicas)
        async with client.AsyncSearchClient(target, timeout_s=30.0) as searcher:
            known = [one async for one in searcher.index("books", documents(), create=True)]
            assert {one.outcome for one in known} == {"indexed"}
            loops = [asyncio.create_task(seen.search_until_stopped(searcher)) for _ in range(4)]
            for name, (at, stop) in zip(("new-a", "new-b"), replicas, strict=True):
                await stop()
                await start(name, at)
                await seen.by(name)
            seen.is_stopped = True
            for loop in loops:
                await loop


async def replica(stack: AsyncExitStack, **settings: Any) -> tuple[str, Callable[[], Awaitable[None]]]:
    """Return the address of a started orchestrator, and a function that stops it before the stack does."""
    built = OrchestratorSettings(**settings)
    own = await stack.enter_async_context(AsyncExitStack())
    running = await own.enter_async_context(serving(built, lambda: build(built)))
    return running.address, own.aclose


class Seen:
    """The replicas that have answered."""

    def __init__(self) -> None:
        self.is_stopped = False
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def by(self, name: str) -> None:
        """Wait until a replica has answered."""
        await self._events[name].wait()

    async def search_until_stopped(self, searcher: client.AsyncSearchClient) -> None:
        """Search again and again. Raises what a search fails with."""
        while not self.is_stopped:
            answer = await searcher.search("books", "word3 word4", top_k=5)
            assert len(answer.results) == 5
            self._events[answer.stages[-1].name].set()


def documents() -> list[client.Document]:
    return [client.Document(book.document_id, book.text) for book in BOOKS]


def test_a_caller_that_does_not_read_stops_the_indexing_and_loses_nothing() -> None:
    """Half of the documents are rejected for long ids, which acknowledgements repeat, so unread ones are large."""

    async def check(running: System) -> None:
        call = running.search.Index()
        await call.write(pb.IndexRequest(collection="books"))
        sent, waiting = 0, None

        def stored() -> int:
            return len(running.retrieval.collections["books"].documents)

        while waiting is None:
            good = Document(document_id=f"n{sent}", text=f"word{sent}")
            refused = Document(document_id=f"{sent}".ljust(100_000, "x"), text="x")
            written = asyncio.ensure_future(call.write(pb.IndexRequest(documents=[good, refused])))
            await asyncio.wait({written}, timeout=2.0)
            sent += 1
            # A write that is slow alone, on a busy machine, ends once the server has caught up.
            while not written.done() and stored() == sent + len(BOOKS):
                await asyncio.wait({written}, timeout=0.1)
            waiting = None if written.done() else written
            assert sent < 2_000, "nothing stopped the writing"
        reading = asyncio.create_task(acknowledged(call))
        await waiting
        await call.done_writing()
        assert await reading == 2 * sent
        assert stored() == sent + len(BOOKS)

    run(check)


async def acknowledged(call: Any) -> int:
    count = 0
    while isinstance(response := await call.read(), pb.IndexResponse):
        count += len(response.acknowledgements)
    return count


HOUR = 3600.0


def test_a_jump_of_the_clock_ends_running_calls_only() -> None:
    """As after a suspended machine resumes: deadlines expire, a breaker probes again, and nothing waits for an hour."""
    deadline = Deadline.after(2.0, now=100.0)
    assert deadline.remaining_s(100.0 + HOUR) < 0
    assert not has_time_for(1, deadline.remaining_s(100.0 + HOUR), 0.0)
    assert allowance_s(deadline.remaining_s(100.0 + HOUR), share=0.5, skippable=True) < 0
    assert reserve_s(deadline.remaining_s(100.0 + HOUR), 0.01) == 0
    breaker = Breaker()
    for _ in range(breaker.failures_max):
        breaker.record_failure(100.0)
    assert not breaker.permits(100.5)
    assert breaker.permits(100.0 + HOUR)
    breaker.record_success()
    assert breaker.state == "closed"


@pytest.mark.parametrize("part", ["core", "rpc", "model", "orchestrator", "embedding", "reranking"])
def test_no_decision_reads_the_wall_clock(part: str) -> None:
    """Wall clocks jump, so the monotonic clock decides; the wall clock is for logs and dates of creation and expiry."""
    wall = {("time", "time"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "services" / part).rglob("*.py"))
        if path.name not in {"logs.py", "tls.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in wall
    ]
    assert not found
