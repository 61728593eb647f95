"""Return of freed memory to the operating system.

Facts: glibc keeps freed memory. It returns blocks above a threshold when they are freed, but raises that threshold to
the largest freed block, up to 32 MiB. Only `malloc_trim` returns small blocks, which takes some milliseconds. After a
burst of 4,400 calls a process kept 1.4 times its usual size, and 1.1 times with `malloc_trim`.

A process that has grown is trimmed repeatedly: immediately, then at growing intervals, because the memory may still be
in use at first. Cancelled calls leave reference cycles, which are collected before each trim. Objects that exist when
the server starts are frozen, so collections are fast.
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
# Larger blocks are messages of the largest requests. Blocks of usual size are kept for the next request.
_LARGE_BLOCK_BYTES: Final = 4 * 2**20
# Growth that justifies a trim.
_WORTH_BYTES: Final = 16 * 2**20
_EVERY_S: Final = 1.0
_LONGEST_S: Final = 32.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def give_back_large_blocks() -> None:
    """Make glibc return large blocks as soon as they are freed, permanently.

    Call it once, at the start of the process.
    """
    map_blocks_from(_LARGE_BLOCK_BYTES)
    _set_option(_M_TRIM_THRESHOLD, 2 * _LARGE_BLOCK_BYTES)


def map_blocks_from(size_bytes: int) -> None:
    """Make glibc return blocks of at least this size when they are freed, regardless of earlier frees."""
    _set_option(_M_MMAP_THRESHOLD, size_bytes)


def _set_option(number: int, value: int) -> None:
    set_option: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(number, value)


def trim() -> None:
    """Return freed memory to the operating system. Takes some milliseconds, so call it off the event loop."""
    give: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give is not None:
        give(0)


def freeze() -> None:
    """Exclude all objects that exist now from garbage collection, permanently."""
    gc.collect()
    gc.freeze()


async def trim_after_growth() -> None:
    """Return freed memory each time the process has grown, until cancelled."""
    due = Due(resident_bytes())
    while True:
        await asyncio.sleep(_EVERY_S)
        if due.at(asyncio.get_running_loop().time(), resident_bytes()):
            gc.collect()
            await asyncio.to_thread(trim)
            due.record_trim(resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes; 0 if there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@dataclass
class Due:
    """Decides when to trim, from the size of the process. Has no clock."""

    usual_bytes: int
    """Size that does not justify a trim."""
    _most_bytes: int = 0
    """Largest size since the last trim that returned memory."""
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

    def record_trim(self, resident: int) -> None:
        """Record the size after a trim. Memory that remains after the longest interval counts as usual from now on."""
        self._most_bytes = max(resident, self.usual_bytes)
        if self._wait_s > _LONGEST_S:
            self.usual_bytes, self._wait_s = resident, _EVERY_S
