"""Work in threads on memory that is released afterwards."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T]) -> T:
    """Return the result of `work`, run in a thread.

    A thread cannot be stopped. If this is cancelled, it waits until the thread has ended, so that the caller can then
    release the memory that the thread reads.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        running.exception()  # Mark it as retrieved; asyncio logs unretrieved exceptions.
        raise
