"""Time series of a run, computed from its calls. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from loadtest.load.calls import OK, Call, percentile_s
from loadtest.report.svg import Line

# A rare workload has windows without calls; after this many in a row, it was not sending.
_GAP_WINDOWS: Final = 6


def window_s(duration_s: float) -> float:
    """Return the length of a window, in seconds: about sixty per run, none shorter than half a second."""
    return max(0.5, round(duration_s / 60, 1))


def latency(calls: Sequence[Call], names: Sequence[str], width_s: float) -> list[Line]:
    """Return p50 and p99 of accepted calls in milliseconds, by workload and window of the intended send time."""
    lines = []
    for index, name in enumerate(names):
        windows: dict[int, list[float]] = defaultdict(list)
        for call in calls:
            if call.workload == index and call.is_accepted:
                windows[int(call.intended_s / width_s)].append(call.latency_s)
        for label, percent in (("p50", 50.0), ("p99", 99.0)):
            points = [
                ((window + 0.5) * width_s, 1000 * (percentile_s(values, percent) or 0))
                for window, values in sorted(windows.items())
            ]
            lines.append(Line(f"{name} {label}", points, dashed=percent == 50.0, gap=_GAP_WINDOWS * width_s))
    return lines


def rates(calls: Sequence[Call], width_s: float, duration_s: float) -> list[Line]:
    """Return the offered calls per second and those of each code, by windows of the intended send time."""
    offered: dict[int, int] = defaultdict(int)
    codes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for call in calls:
        window = int(call.intended_s / width_s)
        offered[window] += 1
        codes["degraded" if call.degraded and call.code == OK else call.code][window] += 1
    windows = range(int(duration_s / width_s))
    lines = [Line("offered", _rate(offered, windows, width_s), dashed=True)]
    return lines + [Line(code, _rate(counts, windows, width_s)) for code, counts in sorted(codes.items())]


def spectrum(calls: Sequence[Call], names: Sequence[str]) -> list[Line]:
    """Return latency in milliseconds over 1 / (1 - percentile), by workload: the tail is on the right."""
    lines = []
    for index, name in enumerate(names):
        values = sorted(call.latency_s for call in calls if call.workload == index and call.is_accepted)
        points = []
        factor = 1.0
        while values and factor <= len(values):
            points.append((factor, 1000 * values[min(int(len(values) * (1 - 1 / factor)), len(values) - 1)]))
            factor *= 1.25
        lines.append(Line(name, points))
    return lines


def _rate(counts: dict[int, int], windows: range, width_s: float) -> list[tuple[float, float]]:
    return [((window + 0.5) * width_s, counts.get(window, 0) / width_s) for window in windows]
