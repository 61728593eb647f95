"""The charts of a report."""

from collections.abc import Sequence
from typing import Final

from loadtest.load.calls import Summary, summary
from loadtest.load.run import Outcome
from loadtest.load.scrape import Series
from loadtest.report import drift, series
from loadtest.report.drift import Drift
from loadtest.report.svg import Axis, Band, Line, chart

# A phase with a changing rate is split into this many parts, each a point of the chart.
_PARTS: Final = 10
# A gap longer than this means that the queue was not in use.
_QUIET_S: Final = 5.0
_MIB: Final = 2**20


def over_time(outcome: Outcome, scraped: Sequence[Series]) -> list[str]:
    """Return charts of latency, outcomes and the servers' queues on one time axis, then latency by percentile."""
    if not outcome.spans:
        return []
    duration_s = outcome.spans[-1][2]
    width_s = series.window_s(duration_s)
    names = [workload.name for workload in outcome.scenario.workloads]
    measured = [(start_s, end_s) for phase, start_s, end_s in outcome.spans if phase.measured]
    inside = [call for call in outcome.calls if any(start <= call.intended_s < end for start, end in measured)]
    axis, bands = _time(outcome)
    found = [
        "<h2>Over time</h2>",
        f'<p class="where">Windows of {width_s:g} s, by the intended send time.</p>',
        chart("Latency", axis, Axis("ms", log=True), series.latency(outcome.calls, names, width_s), bands),
        chart("Calls by outcome", axis, Axis("calls/s"), series.rates(outcome.calls, width_s, duration_s), bands),
    ]
    if scraped:
        waits = [
            Line(
                f"{one.name} {lane}",
                [(t, 1000 * s) for t, s in one.queue_wait_s(lane, outcome.start)],
                gap=width_s * 10,
            )
            for one in scraped
            for lane in ("interactive", "bulk")
        ]
        found.append(chart("Mean wait in the queue", axis, Axis("ms"), waits, bands))
    spectrum = series.spectrum(inside, names)
    percentile = Axis("1 / (1 - percentile)", log=True)
    title = "Latency by percentile (10 is p90, 100 is p99)"
    return [*found, chart(title, percentile, Axis("ms", log=True), spectrum)]


def _waits(outcome: Outcome, scraped: Sequence[Series]) -> list[Line]:
    return [
        Line(f"{one.name} {lane}", [(t, 1000 * s) for t, s in one.queue_wait_s(lane, outcome.start)], gap=_QUIET_S)
        for one in scraped
        for lane in ("interactive", "bulk")
    ]


def _time(outcome: Outcome) -> tuple[Axis, list[Band]]:
    bands = [Band(phase.name, start_s, end_s) for phase, start_s, end_s in outcome.spans]
    return Axis("seconds since the start", ends=(0.0, bands[-1].end)), bands


def over_rate(outcome: Outcome) -> list[str]:
    """Return charts of latency and goodput by offered rate if there was more than one rate."""
    measured = [phase for phase, _, _ in outcome.spans if phase.measured]
    rates = {rate for phase in measured for rate in (phase.rate, phase.to_rate) if rate}
    if len(outcome.probes) + len(rates) < 2:
        return []
    by_name: dict[str, list[Summary]] = {}
    for one in _points(outcome):
        by_name.setdefault(one.workload, []).append(one)
    latency, goodput = [], []
    for name, ones in by_name.items():
        ones.sort(key=lambda one: one.offered_per_s)
        for label in ("p50", "p99"):
            pairs = [(one.offered_per_s, 1000 * getattr(one.latency, label)) for one in ones if one.latency]
            latency.append(Line(f"{name} {label}", pairs, dashed=label == "p50", marked=True))
        goodput.append(Line(name, [(one.offered_per_s, one.goodput_per_s) for one in ones], marked=True))
    most = max((one.offered_per_s for ones in by_name.values() for one in ones), default=1.0)
    goodput.append(Line("all offered", [(0.0, 0.0), (most, most)], dashed=True))
    axis = Axis("offered calls/s", ends=(0.0, most * 1.02))
    return [
        "<h2>Over rate</h2>",
        chart("Latency by offered rate", axis, Axis("ms", log=True), latency),
        chart("Goodput by offered rate", axis, Axis("good calls/s"), goodput),
    ]


def _points(outcome: Outcome) -> list[Summary]:
    """Return summaries at one rate each: probes, phases of open workloads, slices of phases with a changing rate."""
    points = [one for probe in outcome.probes for one in probe.summaries]
    closed = {workload.name for workload in outcome.scenario.workloads if workload.concurrency}
    if outcome.scenario.phases:
        ramps = {phase.name for phase, _, _ in outcome.spans if phase.to_rate is not None}
        points += [one for one in outcome.summaries if one.phase not in ramps]
        points += _parts(outcome)
    return [one for one in points if one.offered and one.workload not in closed]


def _parts(outcome: Outcome) -> list[Summary]:
    found = []
    for phase, start_s, end_s in outcome.spans:
        if not phase.measured or phase.to_rate is None:
            continue
        length_s = (end_s - start_s) / _PARTS
        for part in range(_PARTS):
            low = start_s + part * length_s
            inside = [call for call in outcome.calls if low <= call.intended_s < low + length_s]
            found += [
                summary(
                    [call for call in inside if call.workload == index],
                    phase=phase.name,
                    workload=workload.name,
                    duration_s=length_s,
                    deadline_s=workload.deadline_s,
                )
                for index, workload in enumerate(outcome.scenario.workloads)
            ]
    return found


def of_servers(outcome: Outcome, scraped: Sequence[Series]) -> list[str]:
    """Return charts of the servers' processor time, memory and descriptors."""
    if not scraped or not outcome.spans:
        return []
    axis, bands = _time(outcome)
    start = outcome.start
    memory = [
        Line(one.name, [(t, v / _MIB) for t, v in one.values("process_resident_memory_bytes", start)])
        for one in scraped
    ]
    cores = [Line(one.name, one.per_s("process_cpu_seconds_total", start)) for one in scraped]
    descriptors = [Line(one.name, one.values("process_open_fds", start)) for one in scraped]
    return [
        "<h2>The servers</h2>",
        chart("Processor", axis, Axis("cores"), cores, bands),
        chart("Memory", axis, Axis("MiB"), memory, bands),
        chart("Open descriptors", axis, Axis("descriptors"), descriptors, bands),
    ]


def drifts(outcome: Outcome, scraped: Sequence[Series]) -> list[Drift]:
    """Return the changes from the first quarter of the measured time to the last, if its rate is constant."""
    measured = [(phase, start_s, end_s) for phase, start_s, end_s in outcome.spans if phase.measured]
    if not measured or len({(phase.rate, phase.to_rate, phase.only) for phase, _, _ in measured}) > 1:
        return []
    start_s, end_s = measured[0][1], measured[-1][2]
    if measured[0][0].to_rate is not None:
        return []
    found = []
    for index, workload in enumerate(outcome.scenario.workloads):
        own = [call for call in outcome.calls if call.workload == index]
        for percent in (50, 99):
            found.append(drift.of_latency(f"{workload.name} p{percent}", own, percent, start_s, end_s))
    for one in scraped:
        memory = [(t, v / _MIB) for t, v in one.values("process_resident_memory_bytes", outcome.start)]
        descriptors = one.values("process_open_fds", outcome.start)
        found.append(drift.of_values(f"{one.name} memory", "MiB", memory, start_s, end_s))
        found.append(drift.of_values(f"{one.name} descriptors", "", descriptors, start_s, end_s))
    return [one for one in found if one]
