"""Handling of the signals that stop a command."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM during the block, and deliver them at its end.

    Start a child process and note that it must be stopped in one such block. A signal between the two would leave a
    child that runs on. Does nothing in a thread other than the main one, where signals are not handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for held_number in held:
        signal.raise_signal(held_number)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(_TERMINATED)
