"""Drift of memory, descriptors and latency between the first and the last quarter of a run. Pure.

A leak of a few percent per hour is visible here, while a chart from zero looks flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from loadtest.load.calls import Call, percentile_s

# Fewer in a quarter are not significant.
_LEAST_SAMPLES: Final = 2
_LEAST_CALLS: Final = 20

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Drift:
    """One figure, early and late."""

    name: str
    unit: str
    early: float
    late: float

    @property
    def change(self) -> float:
        """Relative change from the early figure."""
        return self.late / self.early - 1 if self.early else 0.0


def of_values(name: str, unit: str, points: Points, start_s: float, end_s: float) -> Drift | None:
    """Compare the means of a series; None if there are too few samples."""
    early, late = (
        [value for moment, value in points if low <= moment < high] for low, high in _quarters(start_s, end_s)
    )
    if min(len(early), len(late)) < _LEAST_SAMPLES:
        return None
    return Drift(name, unit, fmean(early), fmean(late))


def of_latency(name: str, calls: Sequence[Call], percent: float, start_s: float, end_s: float) -> Drift | None:
    """Compare a percentile of accepted calls, in milliseconds; None if there are too few calls."""
    early, late = (
        [call.latency_s for call in calls if call.is_accepted and low <= call.intended_s < high]
        for low, high in _quarters(start_s, end_s)
    )
    if min(len(early), len(late)) < _LEAST_CALLS:
        return None
    return Drift(name, "ms", *(1000 * (percentile_s(values, percent) or 0) for values in (early, late)))


def _quarters(start_s: float, end_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
    quarter_s = (end_s - start_s) / 4
    return (start_s, start_s + quarter_s), (end_s - quarter_s, end_s)
