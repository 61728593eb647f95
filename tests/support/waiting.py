"""Waiting for a condition without guessing how long it takes."""

import time
from collections.abc import Callable, Iterator
from typing import Final

# For whatever a test waits for: a guard against hanging, far over what any wait takes on a busy machine.
GUARD_S: Final = 300.0


def until(condition: Callable[[], bool], *, timeout_s: float = GUARD_S) -> None:
    """Return once the condition holds. Raises AssertionError if it does not within a generous time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        time.sleep(0.05)


def longer_and_longer(first_s: float) -> Iterator[float]:
    """Yield times for a test of a timeout or deadline: a short one, then longer ones for a busy machine.

    Leave the loop once the tested event has happened. Raises AssertionError if the longest time was not enough.
    """
    time_s = first_s
    while time_s <= GUARD_S:
        yield time_s
        time_s *= 4
    raise AssertionError(f"not so with {time_s / 4:g} s either")
