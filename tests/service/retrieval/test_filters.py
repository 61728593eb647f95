"""Large filters: too large ones are rejected before they are read, and others stop when their caller disconnects."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from sluice.common.v1 import filter_pb2 as flt
from sluice.errors import Cancelled, DeadlineExpired, InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.lanes import ThreadLane, check
from services.retrieval.wire.filters import SIZE_MAX
from services.rpc.deadline import Deadline
from services.rpc.server.sizing import FILTER_BYTES_MAX
from tests.support.retrieval import (
    Stub,
    document,
    error_of,
    new_collection,
    query,
    retrieval_stub,
    upsert,
    value,
)

GUARD_S = 60.0


def member(count: int) -> flt.Filter:
    return flt.Filter(membership=flt.Membership(field="year", values=[value(float(i)) for i in range(count)]))


def some(*parts: flt.Filter) -> flt.Filter:
    return flt.Filter(any_of=flt.FilterList(filters=parts))


def long_words(count: int, size: int) -> flt.Filter:
    values = [value(f"{number:0{size}}") for number in range(count)]
    return flt.Filter(membership=flt.Membership(field="author", values=values))


# A node and 1,024 values each.
LARGEST = some(*[member(1024)] * 7, member(SIZE_MAX - 7 * 1025 - 2))
TOO_LARGE = {
    "a million values": some(*[some(*[member(1024)] * 32)] * 32),
    "one value too many": some(*[member(1024)] * 7, member(SIZE_MAX - 7 * 1025 - 1)),
    "a condition for each document": some(*[some(*[flt.Filter(exists="year")] * 256)] * 256),
    "long words": long_words(1024, FILTER_BYTES_MAX // 1024),
}


def calls(stub: Stub, condition: flt.Filter) -> list[Awaitable[object]]:
    return [
        stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query([1, 0, 0, 0])], filter=condition)),
        stub.CountDocuments(pb.CountDocumentsRequest(collection="books", filter=condition)),
        stub.ListDocuments(pb.ListDocumentsRequest(collection="books", filter=condition)),
        stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", filter=condition)),
    ]


async def fill(stub: Stub) -> None:
    await stub.CreateCollection(new_collection())
    await stub.Upsert(upsert([document(str(i), year=float(i)) for i in range(50)], np.ones((50, 4))))


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_a_filter_that_is_too_large_is_rejected_by_every_rpc(tmp_path: Path, name: str) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        for call in calls(stub, TOO_LARGE[name]):
            error = await error_of(call)
            assert isinstance(error, InvalidRequest)
            assert [violation.field for violation in error.violations] == ["filter"]
            assert "8,192" in error.message or "1,048,576 bytes" in error.message
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection="books"))).document_count == 50


async def test_the_largest_filter_is_answered(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub)
        retrieve, count, listed, deleted = calls(stub, LARGEST)
        assert len((await retrieve).documents) == 10  # type: ignore[attr-defined]
        assert (await count).document_count == 50  # type: ignore[attr-defined]
        assert len((await listed).documents) == 50  # type: ignore[attr-defined]
        assert (await deleted).deleted_count == 50  # type: ignore[attr-defined]


def until_stopped(started: Callable[[], object], ended: threading.Event) -> None:
    started()
    try:
        while not ended.wait(0.001):
            check()
    except (Cancelled, DeadlineExpired):
        ended.set()
        raise


async def test_work_stops_when_its_caller_disconnects() -> None:
    lane = ThreadLane("reads", threads=1, max_waiting=1)
    started, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(
        lane.run(Deadline.after(GUARD_S), until_stopped, lambda: loop.call_soon_threadsafe(started.set), ended)
    )
    try:
        async with asyncio.timeout(GUARD_S):
            await started.wait()
            work.cancel()
            assert await asyncio.to_thread(ended.wait, GUARD_S / 2)
    finally:
        ended.set()
        lane.close()


async def test_work_stops_at_its_deadline() -> None:
    lane = ThreadLane("reads", threads=1, max_waiting=1)
    ended = threading.Event()
    try:
        with pytest.raises(DeadlineExpired):
            async with asyncio.timeout(GUARD_S):
                await lane.run(Deadline.after(0.2), until_stopped, lambda: None, ended)
    finally:
        ended.set()
        lane.close()


def test_outside_of_a_lane_nothing_is_stopped() -> None:
    check()
