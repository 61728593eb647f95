"""Handling of the signals that stop a command."""

import signal
import sys
from types import FrameType
from typing import Final, NoReturn

# Exit status that shells report for a command ended by SIGTERM.
_TERMINATED: Final = 128 + signal.SIGTERM


def stop_on_signals() -> None:
    """Make SIGINT raise KeyboardInterrupt and SIGTERM raise SystemExit, so that `finally` blocks clean up.

    Call it at the entry of a command. A shell without job control starts `command &` with SIGINT ignored, and Python
    keeps an inherited SIG_IGN: the command and its children would run on after ^C or `kill -INT`. Children started
    afterwards inherit the default action of both signals.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(_TERMINATED)
