"""The pipelines in use, read again when their file changes.

Rule: a file that is wrong changes nothing; it is told in the log once.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from services.orchestrator.pipelines.loader import PipelinesError, load
from services.orchestrator.pipelines.schema import Pipeline
from services.rpc.file_watch import fingerprint

logger = logging.getLogger(__name__)


class PipelineFile:
    """A file of pipelines. `current` is what it last said that was right. Raises PipelinesError when it never was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fingerprint = fingerprint([path])
        self.current: Mapping[str, Pipeline] = load(path)

    def refresh(self) -> bool:
        """Read the file again when it changed; whether there are new pipelines."""
        current = fingerprint([self._path])
        if current == self._fingerprint:
            return False
        self._fingerprint = current
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
