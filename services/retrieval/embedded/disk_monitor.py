"""Whether the disk of the data folder takes writes, now.

Rule: health reads what is known; looking is done here, in the thread that writes.

Facts: a disk with some bytes left takes a small write and refuses the next large one. So too little room is trouble
before anything failed, and after a write has failed only a write that succeeds says that it is over.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from sluice.errors import DeadlineExpired, PreconditionFailed, Unavailable

from services.retrieval.embedded.engine import Engine
from services.retrieval.lanes import Lane
from services.rpc.deadline import Deadline

_EVERY_S: Final = 2.0


class Disk:
    """What is known of the disk. A folder that was read-only from the start is no trouble: reading is its purpose."""

    def __init__(self, engine: Engine, folder: Path, *, min_free_bytes: int) -> None:
        self._engine = engine
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self.trouble = ""
        """What keeps it from taking writes; empty when nothing does."""

    def look(self) -> None:
        """Find out anew. May write to the disk, so it belongs to the thread that writes."""
        if self._engine.is_writable:
            self.trouble = self._read_only() or self._full() or self._failing()

    async def watch(self, writes: Lane) -> None:
        """Look again and again, until cancelled. When the writers are too busy to look, they are writing."""
        while True:
            with suppress(Unavailable, DeadlineExpired):
                await writes.run(Deadline.after(60.0), self.look)
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
        """Why writes fail, when the last one did and another one still does."""
        if not self._engine.write_failure:
            return ""
        try:
            self._engine.probe()
        except PreconditionFailed as error:
            return error.message
        return ""
