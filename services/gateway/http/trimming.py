"""Return of freed memory to the operating system after requests have released much of it.

The gRPC servers watch the size of their process (`services.rpc.server.memory`). The gateway counts the bytes that its
requests release, so it trims without guessing and after smaller amounts.

Facts: glibc keeps freed memory. After 130 MB of responses, the process kept 1.6 times its usual size, and 1.1 times
with `malloc_trim`, which takes some milliseconds. A stream that fails leaves reference cycles with all its memory, and
an idle process does not collect them. Objects of the start are frozen, so a collection is short.
"""

import asyncio
import gc
from collections.abc import Sequence
from typing import Final

from services.gateway.http.memory_budget import MemoryBudget
from services.rpc.server import memory

_EVERY_S: Final = 2.0
_MIN_FREED_BYTES: Final = 8 * 2**20
# glibc maps blocks of this size and larger by themselves, and unmaps them when they are freed. Without this setting it
# would raise the size to that of the largest block ever freed, here that of a body.
_MAPPED_BYTES: Final = 128 * 2**10
# Several, because gRPC frees the messages of a call some time after its end.
_ROUNDS: Final = 5


async def trim_memory(budgets: Sequence[MemoryBudget]) -> None:
    """Return freed memory to the operating system when requests have released much, until cancelled."""
    memory.map_blocks_from(_MAPPED_BYTES)
    memory.freeze()
    done = rounds = 0
    while True:
        await asyncio.sleep(_EVERY_S)
        freed = sum(one.freed_bytes for one in budgets)
        if freed - done >= _MIN_FREED_BYTES:
            done, rounds = freed, _ROUNDS
        if rounds:
            rounds -= 1
            gc.collect()
            await asyncio.to_thread(memory.trim)
