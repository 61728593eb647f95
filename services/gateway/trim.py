"""Memory that was freed, given back to the system.

Facts: glibc keeps freed memory for itself. After 130 MB of answers the process had 1.6 times its usual size for good,
with `malloc_trim`, which takes some milliseconds, 1.1 times. A stream that fails leaves reference cycles with
all that it held, and an idle process collects none. What was there at the start is frozen, so a collection is short.
"""

import asyncio
import ctypes
import gc
from collections.abc import Sequence
from typing import Any, Final

from services.gateway.held import Budget

_EVERY_S: Final = 2.0
_WORTH_BYTES: Final = 8 * 2**20
# mallopt's name for the size from which a block is mapped by itself, and so given back when it is freed. Its default
# is 128 KiB, but grows to that of the largest block that was ever freed, up to 32 MiB: that of a body, here.
_MMAP_THRESHOLD: Final = -3
_MAPPED_BYTES: Final = 128 * 2**10
# gRPC lets go of the messages of a call some time after its end.
_ROUNDS: Final = 5


async def trim_memory(budgets: Sequence[Budget]) -> None:
    """Give memory back whenever requests have let go of much, until cancelled. Does nothing without glibc."""
    library = ctypes.CDLL(None)
    trim: Any = getattr(library, "malloc_trim", None)
    if trim is not None:
        library.mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
    gc.collect()
    gc.freeze()
    done = rounds = 0
    while trim is not None:
        await asyncio.sleep(_EVERY_S)
        freed = sum(one.freed_bytes for one in budgets)
        if freed - done >= _WORTH_BYTES:
            done, rounds = freed, _ROUNDS
        if rounds:
            rounds -= 1
            gc.collect()
            await asyncio.to_thread(trim, 0)
