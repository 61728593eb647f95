"""Work in threads on memory that is given back afterwards."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T]) -> T:
    """Return the result of `work`, run in a thread.

    A thread cannot be stopped. When this is cancelled it waits for the end of the thread, so that what the thread reads
    can be given back then.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        running.exception()  # so that nobody misses it
        raise
