"""Threads that give way."""

import os
import threading
from typing import Final

# Work nobody waits for takes the processor time that searches and writes leave.
_LOWEST: Final = 19


def lowest_priority() -> None:
    """Let the calling thread give way to all others. Linux has priorities of threads; elsewhere nothing changes."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
