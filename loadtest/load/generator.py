"""Worker process of the generator: sends calls at given times and reports how each ended.

Rule: one process, one event loop, one channel per workload. The worker makes no decisions.
Fact: CLOCK_MONOTONIC is the same for all processes of a machine, so the start of a run is a time on it.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from sluice.errors import from_rpc_error
from sluice.search.v1 import search_service_pb2 as search_pb

from loadtest.channels import aio_channel, metadata
from loadtest.load.calls import OK, Call
from loadtest.load.targets import Calls

_REPORT_EVERY_S: Final = 0.25
# With this many calls in flight the worker pauses: it would only measure itself.
_MOST_IN_FLIGHT: Final = 20_000
# Pause of a closed-loop caller after a failure, so that rejections do not cause a request storm.
_PAUSE_S: Final = 0.05


@dataclass(frozen=True)
class OpenLoop:
    """Calls of one workload at given times."""

    times_s: NDArray[np.float64]
    """Ascending, in seconds since the start."""


@dataclass(frozen=True)
class ClosedLoop:
    """Callers of one workload, each of which sends its next call when it has the answer."""

    callers: int
    spans_s: tuple[tuple[float, float], ...]
    """Periods in which they send, start and end in seconds since the start of the run."""


@dataclass(frozen=True)
class Order:
    """The load that a worker sends, by workload."""

    start: float
    """Start of the run on the monotonic clock."""
    workloads: tuple[OpenLoop | ClosedLoop, ...]


@dataclass(frozen=True)
class Finished:
    """The message that an order is done."""

    cpu_share: float
    """Processor time of the worker ÷ wall time since the order arrived."""


def work(connection: Connection, plans: Sequence[Calls], first: int, stride: int) -> None:
    """Carry out orders until None arrives. This worker uses every `stride`th request, beginning with `first`."""
    asyncio.run(_Worker(connection, plans, first, stride).run())


class _Worker:
    def __init__(self, connection: Connection, plans: Sequence[Calls], first: int, stride: int) -> None:
        self._connection = connection
        self._plans = plans
        self._next = [_cycle(len(plan.requests), first, stride) for plan in plans]
        self._methods: list[Any] = []
        self._metadata = metadata()
        self._ended: list[Call] = []
        self._running: set[asyncio.Task[str]] = set()
        self._start = 0.0

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            for plan in self._plans:
                channel = await stack.enter_async_context(aio_channel(plan.address))
                self._methods.append(channel.unary_unary(plan.path))
            while (order := await asyncio.to_thread(self._connection.recv)) is not None:
                started, cpu = time.monotonic(), time.process_time()
                await self._carry_out(order)
                share = (time.process_time() - cpu) / (time.monotonic() - started)
                self._connection.send(Finished(share))

    async def _carry_out(self, order: Order) -> None:
        self._start = order.start
        reporting = asyncio.create_task(self._report())
        async with asyncio.TaskGroup() as group:
            for index, load in enumerate(order.workloads):
                if isinstance(load, OpenLoop):
                    group.create_task(self._open(index, load))
                else:
                    for _ in range(load.callers):
                        group.create_task(self._closed(index, load))
        await asyncio.gather(*self._running)
        reporting.cancel()
        self._flush()

    async def _open(self, index: int, load: OpenLoop) -> None:
        for intended_s in load.times_s.tolist():
            await self._until(intended_s)
            while len(self._running) >= _MOST_IN_FLIGHT:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            self._spawn(self._call(index, intended_s))

    async def _closed(self, index: int, load: ClosedLoop) -> None:
        for start_s, end_s in load.spans_s:
            await self._until(start_s)
            while (now := self._now()) < end_s:
                if await self._call(index, now) != OK:
                    await asyncio.sleep(_PAUSE_S)

    async def _call(self, index: int, intended_s: float) -> str:
        plan = self._plans[index]
        request = plan.requests[next(self._next[index])]
        code, degraded = OK, False
        sent_s = self._now()
        try:
            response: bytes = await self._methods[index](request, timeout=plan.deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            code = _code(error)
        finished_s = self._now()
        if code == OK and plan.reports_degraded:
            degraded = search_pb.SearchResponse.FromString(response).degraded
        self._ended.append(Call(index, intended_s, sent_s, finished_s, code, degraded))
        return code

    async def _until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - self._now()))

    def _now(self) -> float:
        return time.monotonic() - self._start

    def _spawn(self, call: Coroutine[Any, Any, str]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            self._flush()

    def _flush(self) -> None:
        if self._ended:
            self._connection.send(self._ended)
            self._ended = []


def _cycle(count: int, first: int, stride: int) -> Iterator[int]:
    position = first
    while True:
        yield position % count
        position += stride


def _code(error: grpc.RpcError) -> str:
    """Return CODE/REASON, or CODE alone if the error has no reason of Sluice."""
    failure = from_rpc_error(error)
    code = failure.code.name
    return code if failure.reason_name == code else f"{code}/{failure.reason_name}"
