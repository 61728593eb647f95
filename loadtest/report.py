"""The result of a load test as a folder.

calls.csv.gz    every call: workload, phase, times, code
latency/*.hgrm  percentile distribution of each workload and phase, as HDR histogram plotters read it
run.json        scenario, machine, versions, options, summaries, capacity
report.html     one page for people; there only when the figures can be trusted
"""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from loadtest import machine, series
from loadtest.calls import Call, Summary, histogram
from loadtest.plots import Axis, Line, chart
from loadtest.run import Outcome
from loadtest.scenario import Phase
from loadtest.scrape import Series

_STYLE: Final = """
:root{color-scheme:light dark;--edge:#8884;--soft:#888}
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem} h2{font-size:1.1rem;margin-top:2rem}
p.where{color:var(--soft);margin-top:0} .big{font-size:1.3rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--edge)}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
figure{margin:1.2rem 0} svg{width:100%;height:auto} svg text{font-size:11px;fill:currentColor}
svg text.title{font-size:13px;font-weight:600} .grid{stroke:var(--edge)} .tick{stroke:var(--soft)}
figcaption span{margin-right:1rem;font-size:13px} figcaption i{display:inline-block;width:.8em;height:.8em;
border-radius:2px;margin-right:.35em} pre{overflow:auto;background:#8881;padding:1rem;font-size:12px}
"""

COLUMNS: Final = (
    "phase",
    "workload",
    "offered/s",
    "good/s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "errors",
    "degraded",
)


@dataclass(frozen=True)
class Result:
    """A run and everything that is told about it."""

    name: str
    outcome: Outcome
    options: Mapping[str, Any]
    described: dict[str, Any]
    scraped: Sequence[Series] = field(default_factory=list)


def write(folder: Path, result: Result) -> Path:
    """Write the folder, report included; returns the report's path."""
    write_raw(folder, result, failed=None)
    report = folder / "report.html"
    report.write_text(page(result), encoding="utf-8")
    return report


def write_raw(folder: Path, result: Result, *, failed: str | None) -> None:
    """Write all but the report. `failed` says why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome = result.outcome
    names = [workload.name for workload in outcome.scenario.workloads]
    with gzip.open(folder / "calls.csv.gz", "wt", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["phase", *Call._fields, "latency_s"])
        for call in sorted(outcome.calls, key=lambda call: call.intended_s):
            times = (f"{time_s:.6f}" for time_s in (call.intended_s, call.sent_s, call.finished_s))
            phase = _phase_of(call, outcome.spans)
            rows.writerow([phase, names[call.workload], *times, call.code, int(call.degraded), f"{call.latency_s:.6f}"])
    record = {
        "failed": failed,
        **result.described,
        "options": dict(result.options),
        "scenario": outcome.scenario.model_dump(mode="json"),
        "capacity_per_s": outcome.capacity,
        "probes": [
            {"rate": probe.rate, "held": probe.held, "summaries": [one.record() for one in probe.summaries]}
            for probe in outcome.probes
        ],
        "summaries": [one.record() for one in outcome.summaries],
        "generator": {"cpu_share": outcome.cpu_share, "doubts": outcome.doubts},
        "servers": {
            one.name: {"times_s": [moment - outcome.start for moment in one.moments], "samples": one.samples}
            for one in result.scraped
        },
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _write_distributions(folder / "latency", outcome)


def row(one: Summary) -> list[str]:
    """The cells of a summary, as COLUMNS names them."""
    latency = one.latency
    times = (latency.p50, latency.p90, latency.p99, latency.max) if latency else ()
    shown = [f"{1000 * time_s:.1f}" for time_s in times] or ["-"] * 4
    return [
        one.phase,
        one.workload,
        f"{one.offered_per_s:.1f}",
        f"{one.goodput_per_s:.1f}",
        *shown,
        f"{one.error_share:.1%}",
        str(one.degraded),
    ]


def page(result: Result) -> str:
    """The report as HTML."""
    outcome = result.outcome
    body = [
        f"<h1>{escape(result.name)}</h1>",
        f'<p class="where">{escape(outcome.scenario.description)}<br>{escape(machine.in_words(result.described))}; '
        f"{escape(result.described['time'])}</p>",
    ]
    if outcome.capacity is not None and outcome.scenario.capacity is not None:
        slo = outcome.scenario.capacity.slo
        body.append(
            f'<p class="big">Capacity: <b>{outcome.capacity:.1f} calls/s</b> with p99 &le; {1000 * slo.p99_s:g} ms '
            f"and errors &le; {slo.error_share:.1%}.</p>"
        )
    body += [
        "<h2>Results</h2>",
        "<p>Latency counts from the intended send time and is that of accepted calls; good are those answered within "
        f"their deadline. {escape(_cut(outcome.spans))}</p>",
        _table(COLUMNS, [row(one) for one in outcome.summaries]),
        *_over_time(outcome),
        *_over_rate(outcome),
        *_servers(result.scraped, outcome.start),
        "<h2>Codes</h2>",
        _table(("phase", "workload", "code", "calls"), _codes(outcome.summaries)),
        "<h2>The generator</h2>",
        f"<p>Busiest worker: {outcome.cpu_share:.0%} of a core. Sent late by (p99): {escape(_lags(outcome))}.</p>",
        "<h2>Configuration</h2>",
        f"<details><summary>scenario, options, versions</summary><pre>{escape(_configuration(result))}</pre></details>",
    ]
    title = f"<title>{escape(result.name)}</title>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{title}'
    lines = ["<!doctype html>", f"<html lang=en><head>{head}<style>{_STYLE}</style></head><body>", *body]
    return "\n".join([*lines, "</body></html>\n"])


def _over_time(outcome: Outcome) -> list[str]:
    if not outcome.spans:
        return []
    duration_s = outcome.spans[-1][2]
    width_s = series.window_s(duration_s)
    names = [workload.name for workload in outcome.scenario.workloads]
    measured = [(start_s, end_s) for phase, start_s, end_s in outcome.spans if phase.measured]
    inside = [call for call in outcome.calls if any(start <= call.intended_s < end for start, end in measured)]
    time_axis = Axis("seconds since the start")
    return [
        "<h2>Over time</h2>",
        f'<p class="where">{escape(_phases(outcome.spans))}; windows of {width_s:g} s.</p>',
        chart("Latency", time_axis, Axis("ms", log=True), series.latency(outcome.calls, names, width_s)),
        chart("Calls by outcome", time_axis, Axis("calls/s"), series.rates(outcome.calls, width_s, duration_s)),
        chart(
            "Latency by percentile (10 is p90, 100 is p99)",
            Axis("1 / (1 - percentile)", log=True),
            Axis("ms", log=True),
            series.spectrum(inside, names),
        ),
    ]


def _over_rate(outcome: Outcome) -> list[str]:
    points = [one for probe in outcome.probes for one in probe.summaries]
    if outcome.scenario.phases:
        points += [one for one in outcome.summaries if one.offered_per_s > 0]
    by_name: dict[str, list[Summary]] = {}
    for one in points:
        by_name.setdefault(one.workload, []).append(one)
    if max((len(ones) for ones in by_name.values()), default=0) < 2:
        return []
    latency, goodput = [], []
    for name, ones in by_name.items():
        ones.sort(key=lambda one: one.offered_per_s)
        for label in ("p50", "p99"):
            pairs = [(one.offered_per_s, 1000 * getattr(one.latency, label)) for one in ones if one.latency]
            latency.append(Line(f"{name} {label}", pairs, dashed=label == "p50"))
        goodput.append(Line(name, [(one.offered_per_s, one.goodput_per_s) for one in ones]))
    axis = Axis("offered calls/s")
    return [
        "<h2>Over rate</h2>",
        chart("Latency by offered rate", axis, Axis("ms", log=True), latency),
        chart("Goodput by offered rate", axis, Axis("good calls/s"), goodput),
    ]


def _servers(scraped: Sequence[Series], start: float) -> list[str]:
    if not scraped:
        return []
    axis = Axis("seconds since the start")
    waits = [
        Line(f"{one.name} {lane}", [(t, 1000 * s) for t, s in one.queue_wait_s(lane, start)])
        for one in scraped
        for lane in ("interactive", "bulk")
    ]
    memory = [
        Line(one.name, [(t, v / 2**20) for t, v in one.values("process_resident_memory_bytes", start)])
        for one in scraped
    ]
    descriptors = [Line(one.name, one.values("process_open_fds", start)) for one in scraped]
    return [
        "<h2>The servers</h2>",
        chart("Mean wait in the queue", axis, Axis("ms"), waits),
        chart("Memory", axis, Axis("MiB"), memory),
        chart("Open descriptors", axis, Axis("descriptors"), descriptors),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _codes(summaries: Sequence[Summary]) -> list[list[str]]:
    return [[one.phase, one.workload, code, str(count)] for one in summaries for code, count in one.codes.items()]


def _lags(outcome: Outcome) -> str:
    return ", ".join(f"{one.phase}/{one.workload} {1000 * one.lag_p99_s:.1f} ms" for one in outcome.summaries)


def _phases(spans: Sequence[tuple[Phase, float, float]]) -> str:
    return ", ".join(f"{phase.name} {start_s:g}-{end_s:g} s" for phase, start_s, end_s in spans)


def _cut(spans: Sequence[tuple[Phase, float, float]]) -> str:
    cut = [f"{phase.name} ({end_s - start_s:g} s)" for phase, start_s, end_s in spans if not phase.measured]
    return f"Cut from the table: {', '.join(cut)}." if cut else "Nothing was cut."


def _configuration(result: Result) -> str:
    record = {
        "options": dict(result.options),
        "scenario": result.outcome.scenario.model_dump(mode="json", exclude_defaults=True),
        **result.described,
    }
    return json.dumps(record, indent=1)


def _phase_of(call: Call, spans: Sequence[tuple[Phase, float, float]]) -> str:
    return next((phase.name for phase, start_s, end_s in spans if start_s <= call.intended_s < end_s), "")


def _write_distributions(folder: Path, outcome: Outcome) -> None:
    folder.mkdir(exist_ok=True)
    for phase, start_s, end_s in outcome.spans:
        for index, workload in enumerate(outcome.scenario.workloads):
            own = [
                call.latency_s
                for call in outcome.calls
                if call.workload == index and call.is_accepted and start_s <= call.intended_s < end_s
            ]
            if phase.measured and own:
                text = io.BytesIO()
                histogram(own).output_percentile_distribution(text, 1000.0)
                (folder / f"{phase.name}-{workload.name}.hgrm").write_bytes(text.getvalue())
