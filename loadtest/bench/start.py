"""Benchmark of the time from the start of a server until it is ready, and of its memory then."""

from dataclasses import replace
from statistics import median

from loadtest.bench.setup import Setup
from loadtest.servers import server


def start(plan: Setup) -> None:
    """Measure the seconds from the start of the process to ready, and its memory, for both model servers."""
    plan = replace(plan, rounds_wanted=plan.rounds_wanted or (1 if plan.quick else 7))
    figures: dict[str, dict[str, list[float]]] = {}
    for name in ("embedding", "reranking"):
        figures[name] = {"ready_s": [], "memory_bytes": []}
        for _ in range(plan.rounds):
            with server(name, "--bundles", str(plan.bundle), "--variant", plan.variant) as one:
                figures[name]["ready_s"].append(one.ready_s)
                figures[name]["memory_bytes"].append(one.memory_bytes())
    rows = [
        [name, f"{median(own['ready_s']):.2f}", f"{max(own['ready_s']):.2f}", f"{_mib(own['memory_bytes']):.0f}"]
        for name, own in figures.items()
    ]
    plan.report(("server", "ready s, median", "worst", "memory MiB"), rows, figures)


def _mib(values: list[float]) -> float:
    return median(values) / 2**20
