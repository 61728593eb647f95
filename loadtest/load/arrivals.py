"""Send times of calls, computed from a rate and a seed.

Rule: open loop. The times are fixed before the run, so a slow server does not reduce its own load. Pure.

With the rate going from r0 to r1 over D seconds, the calls expected by time t are

    L(t) = r0 t + (r1 - r0) t^2 / 2D

and an arrival process of that intensity is L^-1 of one with rate 1: exponential gaps for Poisson, equal gaps for
constant arrivals. Source: Cinlar, Introduction to Stochastic Processes, 1975, theorem 4.7.1.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Arrivals = Literal["poisson", "constant"]


def arrivals(kind: Arrivals, rate: float, to_rate: float, duration_s: float, seed: int) -> F64:
    """Return the send times in [0, duration_s), ascending, float64 [calls], in seconds.

    rate     calls per second at the start
    to_rate  calls per second at the end; the rate changes linearly in between
    """
    expected = (rate + to_rate) / 2 * duration_s
    if kind == "constant":
        unit = np.arange(int(np.ceil(expected))) + 0.5
    else:
        # Six standard deviations above the mean, so that the sum practically always passes the end.
        count = int(expected + 6 * np.sqrt(expected) + 10)
        unit = np.cumsum(np.random.default_rng(seed).exponential(size=count))
    unit = unit[unit < expected]
    slope = (to_rate - rate) / duration_s
    times: F64 = 2 * unit / (rate + np.sqrt(np.maximum(rate**2 + 2 * slope * unit, 0)))
    return times


def recorded(lines: Iterable[str], *, source: str) -> F64:
    """Read recorded times: one number of seconds per line, never decreasing. Raises ValueError that names the line."""
    times: list[float] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            time_s = float(line)
        except ValueError:
            raise ValueError(f"{source}:{number}: expected seconds, got {line.strip()!r:.80}") from None
        if not np.isfinite(time_s) or time_s < (times[-1] if times else 0.0):
            raise ValueError(f"{source}:{number}: expected seconds from 0 in ascending order, got {time_s:g}")
        times.append(time_s)
    return np.array(times, dtype=np.float64)
