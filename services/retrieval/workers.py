"""Threads for the engine: several that read, one that writes, and a limit on how many calls wait for each."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import DeadlineExpired, Unavailable

from services.rpc.deadline import Deadline

P = ParamSpec("P")
R = TypeVar("R")

# A full queue of reads is worked off in about this time, one of writes too: come back then.
_RETRY_AFTER_S = 0.5


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
        that is cancelled while it waits never starts; one that has started ends.
        """
        if self._taken >= self._max_taken:
            raise Unavailable(
                f"expected at most {self._max_taken} calls to {self._name} at a time, this would be one more",
                reason=ErrorReason.ERROR_REASON_OVERLOADED,
                metadata={"expected_max": self._max_taken},
                retry_after_s=_RETRY_AFTER_S,
            )

        def start() -> R:
            if deadline.remaining_s() <= 0:
                raise DeadlineExpired("the deadline passed while the call waited; nothing was done")
            return work(*args, **kwargs)

        future = self._executor.submit(start)
        self._taken += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_soon(loop, self._release))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for the work that has started, and end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _release(self) -> None:
        self._taken -= 1


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run the callback in the loop, unless that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
