"""Benchmark of short deadlines beyond capacity: answers in time, degraded answers, and wasted computation."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from sluice.cli.console import CommandFailed
from sluice.client import Document, SearchClient

from loadtest.bench import setup
from loadtest.bench.setup import Setup
from loadtest.load import scenario
from loadtest.load.calls import EXPIRED, OK, Summary
from loadtest.load.command import Options, run_scenario
from loadtest.load.scrape import Sample, read
from loadtest.quality import runs
from loadtest.report import terminal, writer
from loadtest.servers import Parts, system

_COLLECTION: Final = "deadlines"
_DOCUMENTS: Final = 2000
_MODELS: Final = ("embedding", "reranking")


def deadlines(  # noqa: PLR0913, PLR0917 - each is a flag
    bundle: setup.Bundle,
    data: setup.Data,
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="Pipeline of the searches.")] = "reranked",
    reranker: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Bundle of the reranker. (default: the same)")
    ] = None,
    variant: setup.Variant = "fp32",
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure answers in time, degraded answers and wasted rows at twice the capacity, with deadlines of 200 ms."""
    plan = Setup("deadlines", bundle, data, variant, quick, out)
    wanted = scenario.load("deadlines")
    wanted = wanted.sped_up(10) if quick else wanted
    load = wanted.workloads[0].model_copy(update={"pipeline": pipeline})
    wanted = wanted.model_copy(update={"workloads": (load,)})
    texts = plan.texts()
    passages = texts.passages[: 200 if quick else _DOCUMENTS]
    made_of = Parts([bundle.absolute()], (reranker or bundle).absolute(), variant=variant, caches=False)
    with system(made_of) as (addresses, servers), terminal.LiveWatcher() as watcher:
        with SearchClient(addresses.search) as client:
            runs.index(client, _COLLECTION, [Document(str(n), text) for n, text in enumerate(passages)])
        metrics = {one.name: one.metrics for one in servers}
        before = {name: read(metrics[name]) for name in _MODELS}
        options = Options(addresses, _COLLECTION, metrics=list(metrics.items()))
        result = run_scenario("deadlines", wanted, texts, options, watcher)
        rows = {name: _rows(before[name], read(metrics[name])) for name in _MODELS}
    if doubts := result.outcome.doubts:
        raise CommandFailed("\n".join(doubts))
    writer.write(plan.out / "bench-deadlines", result)
    _report(plan, {one.phase: one for one in result.outcome.summaries}, rows, result.outcome.capacity)


def _rows(before: Sample, after: Sample) -> dict[str, float]:
    """Return the interactive rows computed between two samples, and how many of them had no caller left."""

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    wasted, computed = more("sluice_wasted_rows_total.interactive"), more("sluice_queue_seconds_count.interactive")
    return {"computed": computed, "wasted": wasted, "share": wasted / computed if computed else 0.0}


def _report(plan: Setup, phases: dict[str, Summary], rows: dict[str, dict[str, float]], capacity: float | None) -> None:
    table, figures = [], dict[str, Any]()
    for name, one in phases.items():
        codes = Counter(one.codes)
        accepted = sum(count for code, count in codes.items() if code == OK or code.startswith(EXPIRED))
        in_time = one.good / accepted if accepted else 0.0
        degraded = one.degraded / max(1, codes[OK])
        refused = 1 - accepted / one.offered if one.offered else 0.0
        table.append([name, f"{one.offered_per_s:.1f}", *(f"{x:.1%}" for x in (refused, in_time, degraded))])
        figures[name] = {"in_time": in_time, "degraded": degraded, "refused": refused, **one.record()}
    head = ("load", "offered/s", "refused", "in time, of accepted", "degraded, of answered")
    shares = [
        [f"{name}: rows for nobody", f"{one['computed']:.0f}", f"{one['share']:.2%}", "", ""]
        for name, one in rows.items()
    ]
    plan.report(head, [*table, *shares], {"capacity_per_s": capacity, "phases": figures, "rows": rows})
