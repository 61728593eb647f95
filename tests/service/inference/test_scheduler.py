"""The batch scheduler with a real session, whose runs the test can hold back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from sluice.errors import BackendFailed, DeadlineExpired, SluiceError, Unavailable

from services.inference.bundle import open_bundle
from services.inference.cost import Cost
from services.inference.scheduler import BatchScheduler, Lane, Limits, Schedule
from services.inference.session import Outputs, Session
from services.inference.tokenizer import Input
from tests.support.waiting import GUARD_S, longer_and_longer

LIMITS = Limits(threads=1, max_batch_tokens=256, max_batch_rows=8, cache_entries=100, cache_bytes=2**20)
QUICK = Cost(overhead_tokens=10, seconds_per_token=1e-6)
ROWS = [Input((2, token, token + 1, 3)) for token in range(10, 30)]


class GatedSession(Session):
    """A session whose runs wait until the gate is open. `seen` holds what each run was given."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(open_bundle(bundle), "fp32")
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.seen: list[list[Input]] = []

    def run(self, inputs: Sequence[Input], wanted: Sequence[str], *, alone: bool = False) -> Outputs:
        self.seen.append(list(inputs))
        self.started.release()
        assert self.gate.wait(GUARD_S), "the test never opened the gate"
        if any(row.ids == BROKEN.ids for row in inputs):
            raise RuntimeError("the model broke")
        return super().run(inputs, wanted, alone=alone)


BROKEN = Input((2, 5, 3))


@pytest.fixture
def session(tiny_bi_encoder: Path) -> GatedSession:
    return GatedSession(tiny_bi_encoder)


@asynccontextmanager
async def scheduler_of(
    session: Session, *, cost: Cost = QUICK, limits: Limits = LIMITS
) -> AsyncIterator[BatchScheduler]:
    scheduler = BatchScheduler(session, cost, limits, model="tiny")
    try:
        yield scheduler
    finally:
        scheduler.close()


def within(seconds: float, lane: Lane = "interactive") -> Schedule:
    return Schedule(lane, monotonic() + seconds)


async def started(session: GatedSession) -> None:
    """Wait until a run has started."""
    assert await asyncio.to_thread(session.started.acquire, timeout=GUARD_S)


async def test_equal_rows_in_flight_are_computed_once(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        session.gate.clear()
        calls = [asyncio.create_task(scheduler.run(ROWS[:2], ["dense"], within(GUARD_S))) for _ in range(5)]
        await started(session)
        session.gate.set()
        outputs = await asyncio.gather(*calls)
        assert sum(map(len, session.seen)) == 2
        assert all(np.array_equal(output[1]["dense"], outputs[0][1]["dense"]) for output in outputs)


async def test_only_interactive_outputs_are_cached(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        await scheduler.run(ROWS[:1], ["dense"], within(GUARD_S))
        await scheduler.run(ROWS[:1], ["dense"], within(GUARD_S, "bulk"))
        assert len(session.seen) == 1
        for _ in range(2):
            await scheduler.run(ROWS[1:2], ["dense"], within(GUARD_S, "bulk"))
        assert len(session.seen) == 3


async def test_rows_of_a_disconnected_caller_are_not_computed(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        session.gate.clear()
        running = asyncio.create_task(scheduler.run(ROWS[:1], ["dense"], within(GUARD_S)))
        await started(session)
        leaving = asyncio.create_task(scheduler.run(ROWS[1:4], ["dense"], within(GUARD_S)))
        staying = asyncio.create_task(scheduler.run(ROWS[3:5], ["dense"], within(GUARD_S)))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        session.gate.set()
        await asyncio.gather(running, staying)
        computed = {row.ids for batch in session.seen for row in batch}
        assert computed == {ROWS[0].ids, ROWS[3].ids, ROWS[4].ids}


async def test_expired_rows_are_not_computed(session: GatedSession) -> None:
    for seconds in longer_and_longer(0.05):
        session.seen.clear()
        async with scheduler_of(session) as scheduler:
            session.gate.clear()
            running = asyncio.create_task(scheduler.run(ROWS[:1], ["dense"], within(GUARD_S)))
            await started(session)
            deadline = within(seconds)
            late = asyncio.create_task(scheduler.run(ROWS[1:2], ["dense"], deadline))
            await asyncio.sleep(0)
            is_admitted = not late.done()
            await asyncio.sleep(max(0, deadline.deadline - monotonic() + 0.01))  # time is what this test is about
            session.gate.set()
            await running
            with pytest.raises(DeadlineExpired if is_admitted else SluiceError, match="not computed" * is_admitted):
                await late
            assert [row.ids for batch in session.seen for row in batch] == [ROWS[0].ids]
        if is_admitted:
            break


async def test_work_that_would_be_late_is_rejected_immediately_with_a_retry_delay(session: GatedSession) -> None:
    async with scheduler_of(session, cost=Cost(overhead_tokens=0, seconds_per_token=100.0)) as scheduler:
        with pytest.raises(Unavailable) as caught:
            await scheduler.run(ROWS[:1], ["dense"], within(200.0))
        assert caught.value.reason_name == "OVERLOADED"
        assert caught.value.retry_after_s is not None
        assert 299 < caught.value.retry_after_s <= 500  # four tokens at 125 s each, less what is left of 200 s
        assert session.seen == []


async def test_waiting_rows_count_for_admission(session: GatedSession) -> None:
    async with scheduler_of(session, cost=Cost(overhead_tokens=0, seconds_per_token=50.0)) as scheduler:
        session.gate.clear()
        first = asyncio.create_task(scheduler.run(ROWS[:1], ["dense"], within(6000)))
        await started(session)
        second = asyncio.create_task(scheduler.run(ROWS[1:2], ["dense"], within(6000)))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await scheduler.run(ROWS[2:3], ["dense"], within(400.0))
        session.gate.set()
        await asyncio.gather(first, second)


async def test_interactive_work_passes_bulk_work(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        session.gate.clear()
        bulk = asyncio.create_task(scheduler.run(ROWS, ["dense"], within(GUARD_S, "bulk")))
        await started(session)
        query = asyncio.create_task(scheduler.run([Input((2, 9, 3))], ["dense"], within(GUARD_S)))
        await started(session)
        assert session.seen[1] == [Input((2, 9, 3))]
        session.gate.set()
        await asyncio.gather(bulk, query)


async def test_a_failed_batch_fails_only_its_own_callers(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        with pytest.raises(BackendFailed):
            await scheduler.run([BROKEN, *ROWS[:2]], ["dense"], within(GUARD_S))
        assert len(await scheduler.run(ROWS[:2], ["dense"], within(GUARD_S))) == 2


async def test_outputs_are_read_only_because_callers_share_them(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        (output,) = await scheduler.run(ROWS[:1], ["dense"], within(GUARD_S))
        with pytest.raises(ValueError, match="read-only"):
            output["dense"][0] = 0


async def test_a_row_gets_its_requested_outputs_in_a_shared_batch(session: GatedSession) -> None:
    async with scheduler_of(session) as scheduler:
        session.gate.clear()
        running = asyncio.create_task(scheduler.run(ROWS[:1], ["dense"], within(GUARD_S)))
        await started(session)
        one = asyncio.create_task(scheduler.run(ROWS[1:2], ["dense"], within(GUARD_S)))
        both = asyncio.create_task(scheduler.run(ROWS[2:3], ["dense", "multi_vector"], within(GUARD_S)))
        await asyncio.sleep(0)
        session.gate.set()
        await running
        assert set((await one)[0]) == {"dense"}
        assert {name: part.ndim for name, part in (await both)[0].items()} == {"dense": 1, "multi_vector": 2}
        assert len(session.seen) == 2
