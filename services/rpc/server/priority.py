"""Priorities of threads."""

import logging
import os
import threading
from typing import Final

logger = logging.getLogger(__name__)


# For background work, which gets the processor time that other threads do not use.
LOWEST: Final = 19


def lower_priority(nice: int) -> None:
    """Set the nice value of the calling thread, 0 to 19. Does nothing on systems where threads have no nice value."""
    try:  # Linux has a nice value for each thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except (AttributeError, OSError) as error:
        logger.warning("cannot lower the priority of a thread: %s", error)
