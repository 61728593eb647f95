"""Checks whether the disk of the data folder accepts writes.

Rule: health reports the last result. The check runs in the writer's thread.

Facts: a disk with a few bytes left accepts a small write and rejects the next large one. So too little free space is a
problem before any write fails, and after a failed write only a successful one shows that the problem is over.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from sluice.errors import DeadlineExpired, PreconditionFailed, Unavailable

from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.lanes import ThreadLane
from services.rpc.deadline import Deadline

_EVERY_S: Final = 2.0


class DiskMonitor:
    """The state of the disk. A folder that is read-only from the start is not a problem, because it is only read."""

    def __init__(self, engine: EmbeddedEngine, folder: Path, *, min_free_bytes: int) -> None:
        self._engine = engine
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self.problem = ""
        """Why the disk does not accept writes; empty if it does."""

    def check(self) -> None:
        """Update the state. May write to the disk, so only the writer's thread calls it."""
        if self._engine.is_writable:
            self.problem = self._read_only() or self._full() or self._failing()

    async def watch(self, writes: ThreadLane) -> None:
        """Check again and again until cancelled. While the lane is too busy for a check, writes are succeeding."""
        while True:
            with suppress(Unavailable, DeadlineExpired):
                await writes.run(Deadline.after(60.0), self.check)
            await asyncio.sleep(_EVERY_S)

    def _read_only(self) -> str:
        return "the disk is read-only" if os.statvfs(self._folder).f_flag & os.ST_RDONLY else ""

    def _full(self) -> str:
        free = shutil.disk_usage(self._folder).free
        return (
            f"the disk has {free:,} bytes free, expected {self._min_free_bytes:,}"
            if free < self._min_free_bytes
            else ""
        )

    def _failing(self) -> str:
        """Return why writes fail, if the last one failed and another one still does."""
        if not self._engine.write_failure:
            return ""
        try:
            self._engine.probe()
        except PreconditionFailed as error:
            return error.message
        return ""
