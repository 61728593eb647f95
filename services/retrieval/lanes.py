"""Threads for the engine: several that read, one that writes, and a limit on how many calls wait for each."""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Cancelled, DeadlineExpired, Unavailable

from services.retrieval.embedded.index.ann import Stopped
from services.rpc.deadline import Deadline
from services.rpc.observability.metrics import LANE_REFUSED
from services.rpc.server.priority import LOWEST, lower_priority

P = ParamSpec("P")
R = TypeVar("R")

# A full queue of reads is worked off in about this time, one of writes too: come back then.
_RETRY_AFTER_S = 0.5
# A snapshot is not kept waiting by a merge.
_JOBS: Final = 2
_JOBS_MAX: Final = 16


@dataclass
class _Caller:
    """The caller of the work that a thread runs: until when it waits, and whether it has gone."""

    deadline: Deadline
    is_gone: bool = False


_caller: Final[ContextVar[_Caller]] = ContextVar("caller")


def remaining_s(*, otherwise: float) -> float:
    """Seconds left of the deadline of the work that this thread runs; `otherwise` outside of a lane.

    Raises DeadlineExpired when there are none.
    """
    caller = _caller.get(None)
    return otherwise if caller is None else caller.deadline.timeout_s()


def check() -> None:
    """Raise DeadlineExpired or Cancelled when the caller of the work that this thread runs waits no longer.

    Work whose amount a caller chooses calls this between its steps. Outside of a lane nothing is raised.
    """
    caller = _caller.get(None)
    if caller is None:
        return
    if caller.is_gone:
        raise Cancelled("the caller is gone; the work was stopped")
    if caller.deadline.remaining_s() <= 0:
        raise DeadlineExpired("the deadline passed during the work, which was stopped")


class Lane:
    """Threads of one kind of work, and the calls that wait for them. Use from one event loop."""

    def __init__(self, name: str, *, threads: int, max_waiting: int) -> None:
        self._name = name
        self._max_taken = threads + max_waiting
        self._taken = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, deadline: Deadline, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What `work` returns or raises, in a thread.

        Raises Unavailable when too many calls wait, and DeadlineExpired when the time ends before it starts. A call
        that is cancelled while it waits never starts; one that has started ends at its next `check`.
        """
        if self._taken >= self._max_taken:
            LANE_REFUSED.labels(self._name).inc()
            raise Unavailable(
                f"expected at most {self._max_taken} calls to {self._name} at a time, this would be one more",
                reason=ErrorReason.ERROR_REASON_OVERLOADED,
                metadata={"expected_max": self._max_taken},
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
        self._taken += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_soon(loop, self._release))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            caller.is_gone = True
            raise

    def close(self) -> None:
        """Wait for the work that has started, and end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _release(self) -> None:
        self._taken -= 1


class Jobs:
    """Long work at the lowest priority. It goes on when its caller goes away; a call for the same work joins it.

    Use from one event loop.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(
            _JOBS, thread_name_prefix="jobs", initializer=lower_priority, initargs=(LOWEST,)
        )
        self._running: dict[Hashable, asyncio.Future[Any]] = {}
        self._stopped = threading.Event()

    async def run(self, key: Hashable, work: Callable[[Callable[[], bool]], R]) -> R:
        """What `work` returns or raises, in a thread; it is told how to ask whether it must stop.

        Raises Unavailable when it was stopped, or too much waits.
        """
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= _JOBS_MAX:
                raise Unavailable(
                    f"expected at most {_JOBS_MAX} long works at a time, this would be one more",
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
            raise Unavailable("shutting down; nothing was done", reason=ErrorReason.ERROR_REASON_DRAINING) from None
        return result

    def close(self) -> None:
        """Stop the work that runs, and end the threads."""
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _end(self, key: Hashable, ended: "asyncio.Future[Any]") -> None:
        del self._running[key]
        if not ended.cancelled():
            # Nobody may be there any more to take it.
            ended.exception()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run the callback in the loop, unless that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
