"""Benchmarks that are load scenarios: overload, and the two lanes against each other."""

from typing import Any

from sluice.cli.console import CommandFailed

from loadtest.bench.setup import Setup
from loadtest.load import scenario
from loadtest.load.calls import Summary
from loadtest.load.command import Options, run_scenario
from loadtest.load.targets import Addresses
from loadtest.report import terminal, writer
from loadtest.report.writer import Result
from loadtest.servers import server


def overload(plan: Setup) -> None:
    """Measure goodput at one to three times the capacity ÷ its peak, and p99 of accepted calls ÷ their deadline."""
    result = _run(plan, "overload")
    ones = result.outcome.summaries
    peak = max(one.goodput_per_s for one in ones)
    rows, figures = [], {}
    for one in ones:
        goodput, tail = one.goodput_per_s / peak, _p99(one) / one.deadline_s
        rows.append(
            [one.phase, f"{one.offered_per_s:.1f}", f"{one.goodput_per_s:.1f}", f"{goodput:.2f}", f"{tail:.2f}"]
        )
        figures[one.phase] = {"goodput_of_peak": goodput, "p99_of_deadline": tail, **one.record()}
    head = ("load", "offered/s", "good/s", "÷ peak", "accepted p99 ÷ deadline")
    plan.report(head, rows, {"capacity_per_s": result.outcome.capacity, "phases": figures})


def lanes(plan: Setup) -> None:
    """Measure interactive p99 under full bulk load ÷ idle, and bulk throughput with interactive load ÷ without."""
    by_key = {(one.phase, one.workload): one for one in _run(plan, "mixed").outcome.summaries}
    idle, busy = by_key["idle", "interactive"], by_key["together", "interactive"]
    alone, shared = by_key["bulk-alone", "bulk"], by_key["together", "bulk"]
    tail, share = _p99(busy) / _p99(idle), shared.goodput_per_s / alone.goodput_per_s
    rows = [
        ["interactive p99, idle", f"{1000 * _p99(idle):.1f} ms"],
        ["interactive p99, under bulk", f"{1000 * _p99(busy):.1f} ms"],
        ["ratio", f"{tail:.2f}"],
        ["bulk alone", f"{alone.goodput_per_s:.2f} calls/s"],
        ["bulk with interactive", f"{shared.goodput_per_s:.2f} calls/s"],
        ["ratio", f"{share:.2f}"],
    ]
    figures: dict[str, Any] = {"interactive_p99_ratio": tail, "bulk_ratio": share}
    figures |= {f"{phase}/{workload}": one.record() for (phase, workload), one in by_key.items()}
    plan.report(("", "value"), rows, figures)


def _run(plan: Setup, name: str) -> Result:
    """Run the scenario against an embedding server. Its report is written beside the figures. Raises CommandFailed."""
    wanted = scenario.load(name)
    wanted = wanted.sped_up(10) if plan.quick else wanted
    flags = ("--bundles", str(plan.bundle), "--variant", plan.variant, "--cache-entries", "0", "--max-deadline-s", "60")
    with server("embedding", *flags) as one, terminal.LiveWatcher() as watcher:
        options = Options(Addresses(embed=one.address), metrics=[("embedding", one.metrics)])
        result = run_scenario(name, wanted, plan.texts(), options, watcher)
    if doubts := result.outcome.doubts:
        raise CommandFailed("\n".join(doubts))
    writer.write(plan.out / f"bench-{plan.name}", result)
    return result


def _p99(one: Summary) -> float:
    if one.latency is None:
        raise CommandFailed(f"{one.phase}/{one.workload}: expected accepted calls, got none")
    return one.latency.p99
