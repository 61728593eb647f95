"""The pipelines in use, read again when their file changes."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from services.orchestrator.pipelines.loader import PipelinesError, load
from services.orchestrator.pipelines.schema import Pipeline
from services.rpc.file_watch import fingerprint

logger = logging.getLogger(__name__)


class PipelineFile:
    """A file of pipelines. `current` is its last valid content.

    Raises PipelinesError if the file is invalid at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fingerprint = fingerprint([path])
        self.current: Mapping[str, Pipeline] = load(path)

    def refresh(self) -> bool:
        """Read the file again if it changed, and return whether there are new pipelines.

        An invalid file is logged once and changes nothing.
        """
        found = fingerprint([self._path])
        if found == self._fingerprint:
            return False
        self._fingerprint = found
        try:
            self.current = load(self._path)
        except PipelinesError as error:
            logger.error("pipelines file rejected; keeping the previous version", extra={"problems": error.problems})
            return False
        logger.info("pipelines changed", extra={"pipelines": sorted(self.current)})
        return True

    async def watch(self, every_s: float) -> None:
        """Refresh at this interval until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.refresh()
