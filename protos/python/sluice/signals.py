"""Handling of the signals that stop a command."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

# Most seconds between the signal and the end of the command. It kills its own services after 20 s.
_GRACE_S: Final = 60.0


def stop_on_signals() -> None:
    """Make SIGINT raise KeyboardInterrupt and SIGTERM raise SystemExit, so that `finally` blocks clean up.

    Call it at the entry of a command. A shell without job control starts `command &` with SIGINT ignored, and Python
    keeps an inherited SIG_IGN: the command and its children would run on after ^C or `kill -INT`. Children started
    afterwards inherit the default action of both signals.

    If the command is not over 60 seconds later, the process exits. The exception can interrupt a library that has just
    taken a lock, and everything that waits for that lock then waits forever. Closing a channel of gRPC can.
    """
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _limit_time_to_stop(number)
    signal.default_int_handler(number, frame)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    _limit_time_to_stop(number)
    sys.exit(_status(number))


def _status(number: int) -> int:
    """Return the exit status that shells report for a command ended by this signal."""
    return 128 + number


def _limit_time_to_stop(number: int) -> None:
    def leave(_alarm: int, _frame: FrameType | None) -> None:
        os.write(2, f"not stopped {_GRACE_S:g} s after {signal.Signals(number).name}: exiting\n".encode())
        os._exit(_status(number))

    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, _GRACE_S)


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
