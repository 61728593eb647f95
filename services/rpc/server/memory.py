"""Memory that was freed, given back to the system.

Facts: glibc keeps freed memory for itself. Blocks over a threshold go back when they are freed, but glibc raises that
threshold to the largest block that was freed, up to 32 MiB. Small blocks go back by `malloc_trim` alone, which takes
some milliseconds. After a flood of 4,400 calls a process kept 1.4 times its usual size, and 1.1 times with it.

A process that has grown is trimmed until it has given back what it can: soon at first, then less and less often, since
what made it grow may still be in use. Calls that were cancelled leave reference cycles with all that they held, which
are collected first. What was there at the start of a server is frozen, so a collection is short.
"""

import asyncio
import ctypes
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# Larger blocks are the messages of the largest requests. What is usual is smaller, and is kept for the next request.
_LARGE_BLOCK_BYTES: Final = 4 * 2**20
# Growth that is worth a trim.
_WORTH_BYTES: Final = 16 * 2**20
_EVERY_S: Final = 1.0
_LONGEST_S: Final = 32.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def give_back_large_blocks() -> None:
    """Let large blocks go back to the system as soon as they are freed, for good. Call it once, at the start."""
    map_blocks_from(_LARGE_BLOCK_BYTES)
    _set_option(_M_TRIM_THRESHOLD, 2 * _LARGE_BLOCK_BYTES)


def map_blocks_from(size_bytes: int) -> None:
    """Give blocks of this size and larger back to the system when they are freed, whatever was freed before."""
    _set_option(_M_MMAP_THRESHOLD, size_bytes)


def _set_option(number: int, value: int) -> None:
    set_option: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(number, value)


def trim() -> None:
    """Give freed memory back to the system. Takes some milliseconds: not for the event loop."""
    give: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give is not None:
        give(0)


def freeze() -> None:
    """Leave all that is there now out of garbage collections, for good."""
    gc.collect()
    gc.freeze()


async def trim_after_growth() -> None:
    """Give memory back whenever this process has grown, until cancelled."""
    due = Due(resident_bytes())
    while True:
        await asyncio.sleep(_EVERY_S)
        if due.at(asyncio.get_running_loop().time(), resident_bytes()):
            gc.collect()
            await asyncio.to_thread(trim)
            due.trimmed(resident_bytes())


def resident_bytes() -> int:
    """Return the memory that this process has now; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@dataclass
class Due:
    """When to trim, by the size of the process. Pure."""

    usual_bytes: int
    """Size that is not worth a trim."""
    _most_bytes: int = 0
    """Largest size since the last trim that gave something back."""
    _wait_s: float = _EVERY_S
    _next_s: float = 0.0

    def at(self, now_s: float, resident: int) -> bool:
        """Return whether to trim now."""
        self.usual_bytes = min(self.usual_bytes, resident)
        if resident - max(self._most_bytes, self.usual_bytes) >= _WORTH_BYTES:  # grown anew
            self._most_bytes, self._wait_s, self._next_s = resident, _EVERY_S, now_s
        if resident - self.usual_bytes < _WORTH_BYTES or now_s < self._next_s:
            return False
        self._next_s = now_s + self._wait_s
        self._wait_s *= 2
        return True

    def trimmed(self, resident: int) -> None:
        """Note the size after a trim. What was not given back after the longest wait is usual from now on."""
        self._most_bytes = max(resident, self.usual_bytes)
        if self._wait_s > _LONGEST_S:
            self.usual_bytes, self._wait_s = resident, _EVERY_S
