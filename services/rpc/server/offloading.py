"""Work whose cost a caller chooses, kept off the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def offloaded(work: Callable[[], T], *, size: int, inline: int) -> T:
    """Return the result of `work`, run in a thread when its size is over `inline`.

    A thread and back take about 0.1 ms, so choose `inline` such that smaller work takes about as long. The event loop
    gets the interpreter back within 5 ms while the thread runs Python, but waits for any single call into C that does
    not release the GIL.
    """
    return work() if size <= inline else await asyncio.to_thread(work)
