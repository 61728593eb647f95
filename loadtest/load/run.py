"""Run of a scenario: the capacity search, then all phases without a pause. Each call counts for its intended phase."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from sluice.cli.console import CommandFailed

from loadtest.load import capacity as search
from loadtest.load.arrivals import F64, arrivals, recorded
from loadtest.load.calls import Call, Summary, summary
from loadtest.load.capacity import Probe
from loadtest.load.generator import ClosedLoop, OpenLoop
from loadtest.load.pool import Load, Measured, Pool, TargetLost
from loadtest.load.scenario import Capacity, Phase, Scenario, Workload

# Delay of sending, as a share of the deadline, above which the generator is the bottleneck.
_MOST_LAG: Final = 0.1
_MOST_CPU: Final = 0.9


class Watcher(Protocol):
    """Displays a run in progress."""

    def begin(self, name: str, duration_s: float) -> None:
        """Start a part of the run."""

    def note(self, calls: Sequence[Call], now_s: float) -> None:
        """Add ended calls; `now_s` is seconds since the start of the part."""

    def end(self, summaries: Sequence[Summary]) -> None:
        """End the part."""


@dataclass
class ProbeResult:
    """One probe of a capacity search with its summaries."""

    rate: float
    held: bool
    summaries: list[Summary]


@dataclass
class Outcome:
    """Everything that a run measured."""

    scenario: Scenario
    probes: list[ProbeResult] = field(default_factory=list)
    capacity: float | None = None
    """Highest rate of phases that held, in calls per second; None without a search."""
    calls: list[Call] = field(default_factory=list)
    """Calls of the phases, or of the highest probe that held if there are no phases."""
    spans: list[tuple[Phase, float, float]] = field(default_factory=list)
    """Phases with their start and end, in seconds since the start."""
    summaries: list[Summary] = field(default_factory=list)
    start: float = 0.0
    """Start of the run of `calls`, on the monotonic clock."""
    cpu_share: float = 0.0
    """Processor share of the busiest worker; 1.0 is a whole core."""
    lost: str = ""
    """Why the run ended early; empty if it did not."""

    def repeats(self, distinct: Mapping[str, int]) -> list[str]:
        """Return a line for each workload that had to send requests repeatedly: caches may have answered them."""
        sent = Counter(call.workload for call in self.calls)
        return [
            f"{workload.name}: {sent[index]:,} calls of {distinct[workload.name]:,} distinct requests; "
            "caches may have answered the repeats"
            for index, workload in enumerate(self.scenario.workloads)
            if sent[index] > distinct[workload.name]
        ]

    @property
    def doubts(self) -> list[str]:
        """Reasons why the figures are not reliable; empty if they are."""
        found = [self.lost] if self.lost else []
        for one in self.summaries:
            if one.lag_p99_s > _MOST_LAG * one.deadline_s:
                found.append(
                    f"{one.phase}/{one.workload}: the generator sent late, p99 {one.lag_p99_s * 1000:.0f} ms at "
                    f"{one.offered_per_s:.1f} calls/s: increase --workers, use another machine, or lower the rate"
                )
        if self.cpu_share > _MOST_CPU:
            found.append(f"the generator used {self.cpu_share:.0%} of a core: increase --workers")
        return found


def run(scenario: Scenario, pool: Pool, watcher: Watcher) -> Outcome:
    """Run a scenario. If the target is lost, the outcome says so. Raises CommandFailed."""
    outcome = Outcome(scenario)
    try:
        if scenario.capacity is not None:
            _find_capacity(scenario, scenario.capacity, pool, watcher, outcome)
        phases = _in_calls_per_second(scenario, outcome.capacity)
        if phases:
            _run_phases(scenario, phases, pool, watcher, outcome)
    except TargetLost as error:
        outcome.calls, outcome.lost = error.calls, str(error)
    return outcome


def _find_capacity(scenario: Scenario, wanted: Capacity, pool: Pool, watcher: Watcher, outcome: Outcome) -> None:
    probes: list[Probe] = []
    while (rate := search.next_rate(probes, wanted.bounds)) is not None:
        phases = [Phase(name="probe", duration_s=wanted.probe_s, rate=rate)]
        if wanted.warm_up_s:
            phases.insert(0, Phase(name="warm-up", duration_s=wanted.warm_up_s, rate=rate, measured=False))
        trial = Outcome(scenario)
        _run_phases(scenario, phases, pool, watcher, trial, title=f"probe {rate:.1f}/s")
        held = all(_holds(one, wanted) for one in trial.summaries)
        probes.append(Probe(rate, held))
        outcome.probes.append(ProbeResult(rate, held, trial.summaries))
        if held:
            outcome.calls, outcome.spans, outcome.summaries = trial.calls, trial.spans, trial.summaries
            outcome.start, outcome.cpu_share = trial.start, trial.cpu_share
    outcome.capacity = search.capacity(probes)
    if not outcome.capacity:
        raise CommandFailed(
            f"capacity: the service level did not hold at the lowest rate, {wanted.low_rate:g} calls/s: "
            "lower `low_rate` or relax the objective"
        )


def _holds(one: Summary, wanted: Capacity) -> bool:
    slo = wanted.slo
    return one.latency is not None and one.latency.p99 <= slo.p99_s and one.error_share <= slo.error_share


def _in_calls_per_second(scenario: Scenario, capacity: float | None) -> list[Phase]:
    if scenario.rate_unit == "per_second" or capacity is None:
        return list(scenario.phases)
    return [
        phase.model_copy(
            update={
                "rate": phase.rate * capacity,
                "to_rate": None if phase.to_rate is None else phase.to_rate * capacity,
            }
        )
        for phase in scenario.phases
    ]


def _run_phases(
    scenario: Scenario, phases: list[Phase], pool: Pool, watcher: Watcher, outcome: Outcome, title: str = ""
) -> None:
    spans = spans_of(phases)
    loads = [load_of(workload, spans, scenario.seed + index) for index, workload in enumerate(scenario.workloads)]
    if not any(isinstance(load, ClosedLoop) or len(load.times_s) for load in loads):
        raise CommandFailed("expected at least one call in the whole run, got none: raise the rate or the duration")
    watcher.begin(title or ", ".join(phase.name for phase in phases), spans[-1][2])
    measured: Measured = pool.run(loads, watcher.note)
    outcome.calls, outcome.spans = measured.calls, spans
    outcome.start, outcome.cpu_share = measured.start, measured.cpu_share
    outcome.summaries = summaries_of(scenario, spans, measured.calls)
    watcher.end(outcome.summaries)


def spans_of(phases: Sequence[Phase]) -> list[tuple[Phase, float, float]]:
    """Return the phases with start and end, one after the other from 0."""
    spans = []
    start_s = 0.0
    for phase in phases:
        spans.append((phase, start_s, start_s + phase.duration_s))
        start_s += phase.duration_s
    return spans


def load_of(workload: Workload, spans: Sequence[tuple[Phase, float, float]], seed: int) -> Load:
    """Return when one workload sends, over all of its phases."""
    own = [span for span in spans if not span[0].only or workload.name in span[0].only]
    if workload.concurrency:
        return ClosedLoop(workload.concurrency, tuple((start_s, end_s) for _, start_s, end_s in own))
    if workload.recording is not None:
        times = _recording(workload.recording)
        return OpenLoop(times[times < spans[-1][2]])
    moments: list[float] = []
    assert workload.arrivals != "recorded"
    for index, (phase, start_s, _) in enumerate(own):
        rate = phase.rate * workload.share
        to_rate = rate if phase.to_rate is None else phase.to_rate * workload.share
        if rate + to_rate > 0:
            own_seed = seed * 1000 + index
            moments += (start_s + arrivals(workload.arrivals, rate, to_rate, phase.duration_s, own_seed)).tolist()
    return OpenLoop(np.array(moments, dtype=np.float64))


def _recording(path: Path) -> F64:
    try:
        with path.open(encoding="utf-8") as lines:
            return recorded(lines, source=str(path))
    except (OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error


def summaries_of(
    scenario: Scenario, spans: Sequence[tuple[Phase, float, float]], calls: Sequence[Call]
) -> list[Summary]:
    """Summarize the calls of each workload in each measured phase that it ran in."""
    found = []
    for phase, start_s, end_s in spans:
        for index, workload in enumerate(scenario.workloads):
            if phase.measured and (not phase.only or workload.name in phase.only):
                own = _inside([call for call in calls if call.workload == index], workload, start_s, end_s)
                one = summary(
                    own,
                    phase=phase.name,
                    workload=workload.name,
                    duration_s=phase.duration_s,
                    deadline_s=workload.deadline_s,
                )
                found.append(one)
    return found


def _inside(calls: Sequence[Call], workload: Workload, start_s: float, end_s: float) -> list[Call]:
    """Return the calls of a period: by the intended send time, or by the end for a closed loop.

    Calls of a closed loop that ended in the period were mostly processed in it. Counting by the start would
    include the last
    call of every caller, most of which was processed later.
    """
    if workload.concurrency:
        return [call for call in calls if start_s <= call.finished_s < end_s]
    return [call for call in calls if start_s <= call.intended_s < end_s]
