"""Measured calls and their summaries. Pure.

Latency counts from the intended send time: a call that could not be sent in time because the one before was slow
waited too (Tene, "How NOT to Measure Latency", 2015: coordinated omission).

accepted  calls that ended OK or DEADLINE_EXCEEDED: the server took them on. Percentiles are theirs.
good      calls that ended OK within their deadline. Goodput counts these.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from hdrh.histogram import HdrHistogram

OK: Final = "OK"
EXPIRED: Final = "DEADLINE_EXCEEDED"
# The code of gRPC when no server listens. Sluice's servers add a reason to it.
GONE: Final = "UNAVAILABLE"
# 1 us to 1 hour with 3 significant digits.
_LARGEST_US: Final = 3_600_000_000
_DIGITS: Final = 3


class Call(NamedTuple):
    """One call. Times are seconds since the start of the run; `code` is `OK`, or CODE/REASON of the error."""

    workload: int
    intended_s: float
    sent_s: float
    finished_s: float
    code: str
    degraded: bool

    @property
    def latency_s(self) -> float:
        """Seconds from the intended send time to the end."""
        return self.finished_s - self.intended_s

    @property
    def is_accepted(self) -> bool:
        """Whether the server accepted the call."""
        return self.code == OK or self.code.startswith(EXPIRED)


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of latencies, in seconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Summary:
    """Figures of one workload in one phase."""

    phase: str
    workload: str
    duration_s: float
    deadline_s: float
    offered: int
    """Number of calls that were due."""
    good: int
    degraded: int
    """Calls with a degraded answer, in time or late."""
    codes: dict[str, int]
    latency: Percentiles | None
    """Latency of accepted calls; None if there were none."""
    refused_p99_s: float | None
    """p99 latency of the other calls: rejections should be fast."""
    lag_p99_s: float
    """p99 delay from the intended to the real send time: for open-loop workloads, an error of the generator."""

    @property
    def offered_per_s(self) -> float:
        """Offered calls per second."""
        return self.offered / self.duration_s

    @property
    def goodput_per_s(self) -> float:
        """Calls answered in time, per second."""
        return self.good / self.duration_s

    @property
    def error_share(self) -> float:
        """Share of calls that were not answered with OK within their deadline."""
        return 1 - self.good / self.offered if self.offered else 0.0

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        rates = {
            "offered_per_s": self.offered_per_s,
            "goodput_per_s": self.goodput_per_s,
            "error_share": self.error_share,
        }
        return asdict(self) | rates


def histogram(latencies_s: Iterable[float]) -> HdrHistogram:
    """Return an HDR histogram of latencies, in microseconds."""
    result = HdrHistogram(1, _LARGEST_US, _DIGITS)
    for latency in latencies_s:
        result.record_value(min(max(int(latency * 1e6), 1), _LARGEST_US))
    return result


def percentile_s(latencies_s: Iterable[float], percent: float) -> float | None:
    """Return one percentile in seconds; None without latencies."""
    counted = histogram(latencies_s)
    return float(counted.get_value_at_percentile(percent)) / 1e6 if counted.get_total_count() else None


def percentiles(latencies_s: Iterable[float]) -> Percentiles | None:
    """Return the usual percentiles; None without latencies."""
    counted = histogram(latencies_s)
    if not counted.get_total_count():
        return None
    wanted = (50, 90, 95, 99, 99.9, 100)
    return Percentiles(*(float(counted.get_value_at_percentile(percent)) / 1e6 for percent in wanted))


def summary(calls: Sequence[Call], *, phase: str, workload: str, duration_s: float, deadline_s: float) -> Summary:
    """Summarize the calls of one workload in one phase."""
    return Summary(
        phase=phase,
        workload=workload,
        duration_s=duration_s,
        deadline_s=deadline_s,
        offered=len(calls),
        good=sum(call.code == OK and call.latency_s <= deadline_s for call in calls),
        degraded=sum(call.degraded for call in calls),
        codes=dict(Counter(call.code for call in calls).most_common()),
        latency=percentiles(call.latency_s for call in calls if call.is_accepted),
        refused_p99_s=percentile_s((call.latency_s for call in calls if not call.is_accepted), 99),
        lag_p99_s=percentile_s((call.sent_s - call.intended_s for call in calls), 99) or 0.0,
    )


class Outage:
    """Detection of a lost target: for `limit_s` seconds every call failed as if no server were there."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s: float | None = None

    def note(self, calls: Iterable[Call]) -> float | None:
        """Record ended calls. If the target has been lost for too long, return the time since when, in seconds."""
        for call in sorted(calls, key=lambda call: call.finished_s):
            if call.code != GONE:
                self._since_s = None
            elif self._since_s is None:
                self._since_s = call.finished_s
            elif call.finished_s - self._since_s > self._limit_s:
                return self._since_s
        return None
