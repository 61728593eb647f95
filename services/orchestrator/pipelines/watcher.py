"""The pipelines in use, read again when their file changes.

Rule: a file that is wrong changes nothing; it is told in the log once.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from services.orchestrator.pipelines.loader import PipelinesError, load
from services.orchestrator.pipelines.schema import Pipeline

logger = logging.getLogger(__name__)

# What changes when a file is written, replaced, or a mounted volume switches to another one.
_Mark = tuple[int, int, int]


class PipelineFile:
    """A file of pipelines. `current` is what it last said that was right. Raises PipelinesError when it never was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = _mark(path)
        self.current: Mapping[str, Pipeline] = load(path)

    def refresh(self) -> bool:
        """Read the file again when it changed; whether there are new pipelines."""
        mark = _mark(self._path)
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            self.current = load(self._path)
        except PipelinesError as error:
            logger.error("the changed pipelines are wrong, those before stay", extra={"problems": error.problems})
            return False
        logger.info("pipelines changed", extra={"pipelines": sorted(self.current)})
        return True

    async def watch(self, every_s: float) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.refresh()


def _mark(path: Path) -> _Mark | None:
    """What tells one state of the file from another; None when it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
