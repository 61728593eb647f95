"""The exception and the callback by which long work stops early."""

from collections.abc import Callable

IsStopped = Callable[[], bool]
"""Whether long work must stop."""


class Stopped(Exception):
    """Long work was stopped before its end."""
