"""Running work off the event loop if its cost depends on the caller."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def offload(work: Callable[[], T], *, size: int, inline: int) -> T:
    """Return the result of `work`, which runs in a thread if its size is larger than `inline`.

    A switch to a thread and back takes about 0.1 ms, so choose `inline` such that smaller work takes about as long.
    While the thread runs Python, the event loop gets the interpreter back within 5 ms. It waits for any single C call
    that does not release the GIL.
    """
    return work() if size <= inline else await asyncio.to_thread(work)
