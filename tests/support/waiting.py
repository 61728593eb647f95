"""Waiting for what must come true, without guessing how long it takes."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Return once the condition holds. Raises AssertionError when it does not within a generous time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        time.sleep(0.05)
