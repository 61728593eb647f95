"""Threads that give way."""

import logging
import os
import threading
from typing import Final

logger = logging.getLogger(__name__)


# For work nobody waits for: it takes the processor time that all others leave.
LOWEST: Final = 19


def lower_priority(nice: int) -> None:
    """Let the calling thread run behind those of lower values, 0 to 19. Where threads have none, nothing changes."""
    try:  # Linux has a nice value for each thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except (AttributeError, OSError) as error:
        logger.warning("a thread keeps its normal priority: %s", error)
