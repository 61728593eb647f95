"""The search for capacity: the highest rate at which the service level holds. Pure; probes are run by others.

Doubles from the lowest rate until one does not hold, then halves the ratio between the highest rate that held and the
lowest that did not, until they are near enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Probe:
    """A rate that was tried, in calls a second, and whether the service level held."""

    rate: float
    held: bool


@dataclass(frozen=True)
class Bounds:
    """Where to search: rates in calls a second, and how near the two ends must come (0.1 is a tenth)."""

    low_rate: float
    high_rate: float
    precision: float


def next_rate(probes: Sequence[Probe], bounds: Bounds) -> float | None:
    """The rate to try next; None when the search has ended."""
    if not probes:
        return bounds.low_rate
    held, failed = capacity(probes), _lowest_failed(probes)
    if held == 0:
        return None
    if failed is None:
        return min(2 * held, bounds.high_rate) if held < bounds.high_rate else None
    if failed / held <= 1 + bounds.precision:
        return None
    return sqrt(held * failed)


def capacity(probes: Sequence[Probe]) -> float:
    """The highest rate that held, below the lowest that did not; 0 when none did."""
    failed = _lowest_failed(probes)
    return max((probe.rate for probe in probes if probe.held and (failed is None or probe.rate < failed)), default=0.0)


def _lowest_failed(probes: Sequence[Probe]) -> float | None:
    return min((probe.rate for probe in probes if not probe.held), default=None)
