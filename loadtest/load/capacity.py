"""Search for the capacity: the highest rate at which the service level holds. Pure; the caller runs the probes.

Doubles the lowest rate until the level fails. Then it tries the geometric mean of the highest rate that held and the
lowest that failed, until both are close enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Probe:
    """A rate that was tried, in calls per second, and whether the service level held."""

    rate: float
    held: bool


@dataclass(frozen=True)
class Bounds:
    """Limits of the search: rates in calls per second, and how close the two ends must get (0.1 is a tenth)."""

    low_rate: float
    high_rate: float
    precision: float


def next_rate(probes: Sequence[Probe], bounds: Bounds) -> float | None:
    """Return the next rate to try; None when the search is over."""
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
    """Return the highest rate that held below the lowest that failed; 0 if none held."""
    failed = _lowest_failed(probes)
    return max((probe.rate for probe in probes if probe.held and (failed is None or probe.rate < failed)), default=0.0)


def _lowest_failed(probes: Sequence[Probe]) -> float | None:
    return min((probe.rate for probe in probes if not probe.held), default=None)
