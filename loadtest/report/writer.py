"""The result of a load test, written as a folder.

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

from loadtest.load.calls import Call, Summary, histogram
from loadtest.load.run import Outcome
from loadtest.load.scenario import Phase
from loadtest.load.scrape import Series
from loadtest.report import charts, machine
from loadtest.report.drift import Drift

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
svg text.band{fill:var(--soft)} svg rect.band{fill:#8881}
figcaption span{margin-right:1rem;font-size:13px} figcaption i{display:inline-block;width:1.4em;
border-top:3px solid;vertical-align:middle;margin-right:.4em} figcaption i.dashed{border-top-style:dashed}
pre{overflow:auto;background:#8881;padding:1rem;font-size:12px}
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
    """A run with its options and the description of its machine."""

    name: str
    outcome: Outcome
    options: Mapping[str, Any]
    described: dict[str, Any]
    scraped: Sequence[Series] = field(default_factory=list)


def write(folder: Path, result: Result) -> Path:
    """Write the folder including the report, and return the report's path."""
    write_raw(folder, result, failed=None)
    report = folder / "report.html"
    report.write_text(page(result), encoding="utf-8")
    return report


def write_raw(folder: Path, result: Result, *, failed: str | None) -> None:
    """Write everything except the report. `failed` says why there is none."""
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
    """Return the cells of a summary, in the order of COLUMNS."""
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
    """Return the report as HTML."""
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
        "<p>Latency counts from the intended send time and covers accepted calls. Good calls were answered within "
        f"their deadline. {escape(_cut(outcome.spans))}</p>",
        _table(COLUMNS, [row(one) for one in outcome.summaries]),
        *charts.over_time(outcome, result.scraped),
        *charts.over_rate(outcome),
        *charts.of_servers(outcome, result.scraped),
        *_drift(charts.drifts(outcome, result.scraped)),
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _drift(drifts: Sequence[Drift]) -> list[str]:
    if not drifts:
        return []
    rows = [[one.name, one.unit, f"{one.early:.1f}", f"{one.late:.1f}", f"{one.change:+.1%}"] for one in drifts]
    return [
        "<h2>Drift</h2>",
        "<p>First and last quarter of the measured time. A leak is visible here before it is visible above.</p>",
        _table(("figure", "unit", "first quarter", "last quarter", "change"), rows),
    ]


def _codes(summaries: Sequence[Summary]) -> list[list[str]]:
    return [[one.phase, one.workload, code, str(count)] for one in summaries for code, count in one.codes.items()]


def _lags(outcome: Outcome) -> str:
    return ", ".join(f"{one.phase}/{one.workload} {1000 * one.lag_p99_s:.1f} ms" for one in outcome.summaries)


def _cut(spans: Sequence[tuple[Phase, float, float]]) -> str:
    cut = [f"{phase.name} ({end_s - start_s:g} s)" for phase, start_s, end_s in spans if not phase.measured]
    return f"Excluded from the table: {', '.join(cut)}." if cut else "No phase was excluded."


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
