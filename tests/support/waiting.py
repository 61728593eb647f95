"""Waiting for what must come true, without guessing how long it takes."""

import time
from collections.abc import Callable
from typing import Final

# For whatever a test waits for: a guard against hanging, far over what any wait takes on a busy machine.
GUARD_S: Final = 300.0


def until(condition: Callable[[], bool], *, timeout_s: float = GUARD_S) -> None:
    """Return once the condition holds. Raises AssertionError when it does not within a generous time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        time.sleep(0.05)
