"""Threads for blocking work: lanes for reads and writes with bounded queues, and shared long-running jobs."""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Cancelled, DeadlineExpired, Unavailable

from services.retrieval.cancellation import IsStopped, Stopped
from services.retrieval.metrics import LANE_REFUSED
from services.rpc.deadline import Deadline
from services.rpc.server.priority import LOWEST, lower_priority

P = ParamSpec("P")
R = TypeVar("R")

# A full queue of reads or writes empties in about this time.
_RETRY_AFTER_S = 0.5
# Two, so that a snapshot does not wait for a compaction.
_JOB_THREADS: Final = 2
_JOBS_MAX: Final = 16


@dataclass
class _Caller:
    """The caller of the work in a thread: its deadline, and whether it has disconnected."""

    deadline: Deadline
    is_gone: bool = False


_caller: Final[ContextVar[_Caller]] = ContextVar("caller")


def remaining_s(*, otherwise: float) -> float:
    """Return the seconds until the deadline of the work in this thread, or `otherwise` outside of a lane.

    Raises DeadlineExpired if the deadline has passed.
    """
    caller = _caller.get(None)
    return otherwise if caller is None else caller.deadline.timeout_s()


def check() -> None:
    """Raise DeadlineExpired or Cancelled if the caller of the work in this thread no longer waits.

    Work whose amount a caller chooses calls this between its steps. Outside of a lane it does nothing.
    """
    caller = _caller.get(None)
    if caller is None:
        return
    if caller.is_gone:
        raise Cancelled("the caller disconnected; the work was stopped")
    if caller.deadline.remaining_s() <= 0:
        raise DeadlineExpired("the deadline passed during the work; the work was stopped")


class ThreadLane:
    """Threads for one kind of work with a bounded queue. Use it from one event loop."""

    def __init__(self, name: str, *, threads: int, max_waiting: int) -> None:
        self._name = name
        self._max_calls = threads + max_waiting
        self._calls = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, deadline: Deadline, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `work` in a thread, and return or raise what it does.

        Raises Unavailable if too many calls wait, and DeadlineExpired if the deadline passes before the work starts. If
        the call is cancelled, waiting work never starts and running work ends at its next `check`.
        """
        if self._calls >= self._max_calls:
            LANE_REFUSED.labels(self._name).inc()
            raise Unavailable(
                f"expected at most {self._max_calls} concurrent {self._name}, got one more; try again later",
                reason=ErrorReason.ERROR_REASON_OVERLOADED,
                metadata={"expected_max": self._max_calls},
                retry_after_s=_RETRY_AFTER_S,
            )

        caller = _Caller(deadline)

        def start() -> R:
            if deadline.remaining_s() <= 0:
                raise DeadlineExpired("the deadline passed while the call waited; nothing was done")
            token = _caller.set(caller)
            try:
                return work(*args, **kwargs)
            finally:
                _caller.reset(token)

        future = self._executor.submit(start)
        self._calls += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_soon(loop, self._release))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            caller.is_gone = True
            raise

    def close(self) -> None:
        """Wait for the running work, and end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _release(self) -> None:
        self._calls -= 1


class SharedJobs:
    """Long-running work at the lowest priority. Use it from one event loop.

    A job continues if its caller disconnects, and a second call with the same key joins it.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(
            _JOB_THREADS, thread_name_prefix="jobs", initializer=lower_priority, initargs=(LOWEST,)
        )
        self._running: dict[Hashable, asyncio.Future[Any]] = {}
        self._stopped = threading.Event()

    async def run(self, key: Hashable, work: Callable[[IsStopped], R]) -> R:
        """Run `work` in a thread, or join the running job with this key, and return or raise what it does.

        Raises Unavailable if the server shuts down or too many jobs wait.
        """
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= _JOBS_MAX:
                raise Unavailable(
                    f"expected at most {_JOBS_MAX} compactions and snapshots at a time, got one more; try again later",
                    reason=ErrorReason.ERROR_REASON_OVERLOADED,
                    metadata={"expected_max": _JOBS_MAX},
                    retry_after_s=_RETRY_AFTER_S,
                )
            running = asyncio.wrap_future(self._executor.submit(work, self._stopped.is_set))
            self._running[key] = running
            running.add_done_callback(lambda ended: self._end(key, ended))
        try:
            result: R = await asyncio.shield(running)
        except Stopped:
            reason = ErrorReason.ERROR_REASON_DRAINING
            raise Unavailable("the server is shutting down; nothing was done", reason=reason) from None
        return result

    def close(self) -> None:
        """Stop the running jobs, and end the threads."""
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _end(self, key: Hashable, ended: "asyncio.Future[Any]") -> None:
        del self._running[key]
        if not ended.cancelled():
            # Marks the exception as retrieved, because no caller may be left.
            ended.exception()


@dataclass(frozen=True)
class Lanes:
    """The threads of one server."""

    reads: ThreadLane
    writes: ThreadLane
    jobs: SharedJobs

    def close(self) -> None:
        """Stop the jobs, wait for running reads and writes, and end all threads."""
        self.jobs.close()
        self.writes.close()
        self.reads.close()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run the callback in the loop, unless the loop is closed."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
