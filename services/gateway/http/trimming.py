"""Memory that was freed, given back to the system.

Facts: glibc keeps freed memory for itself. After 130 MB of answers the process had 1.6 times its usual size for good,
with `malloc_trim`, which takes some milliseconds, 1.1 times. A stream that fails leaves reference cycles with
all that it held, and an idle process collects none. What was there at the start is frozen, so a collection is short.
"""

import asyncio
import gc
from collections.abc import Sequence
from typing import Final

from services.gateway.http.memory_budget import MemoryBudget
from services.rpc.server import memory

_EVERY_S: Final = 2.0
_WORTH_BYTES: Final = 8 * 2**20
# The size from which a block is given back when it is freed. glibc starts with it and raises it to that of the largest
# block that was ever freed, here that of a body.
_MAPPED_BYTES: Final = 128 * 2**10
# gRPC lets go of the messages of a call some time after its end.
_ROUNDS: Final = 5


async def trim_memory(budgets: Sequence[MemoryBudget]) -> None:
    """Give memory back whenever requests have let go of much, until cancelled."""
    memory.map_blocks_from(_MAPPED_BYTES)
    memory.freeze()
    done = rounds = 0
    while True:
        await asyncio.sleep(_EVERY_S)
        freed = sum(one.freed_bytes for one in budgets)
        if freed - done >= _WORTH_BYTES:
            done, rounds = freed, _ROUNDS
        if rounds:
            rounds -= 1
            gc.collect()
            await asyncio.to_thread(memory.trim)
