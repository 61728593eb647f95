"""The command `sluice load`: runs a scenario against running services."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from sluice.cli.console import CommandFailed, err, out

from loadtest.load import scenario
from loadtest.load.pool import workers
from loadtest.load.run import Watcher, run
from loadtest.load.scenario import Scenario
from loadtest.load.scrape import watching
from loadtest.load.targets import Addresses, Texts, calls_of, check
from loadtest.report import machine, terminal, writer
from loadtest.report.writer import Result

RESULTS: Final = Path("loadtest-results")


@dataclass(frozen=True)
class Options:
    """Options of a run."""

    addresses: Addresses
    collection: str = "docs"
    workers: int = 1
    metrics: Sequence[tuple[str, str]] = field(default_factory=list)
    """Name and HOST:PORT of servers whose metrics are read during the run."""


def run_scenario(name: str, wanted: Scenario, texts: Texts, options: Options, watcher: Watcher) -> Result:
    """Run a scenario against running services.

    If `outcome.doubts` is not empty, the figures are not reliable. Raises CommandFailed if a target cannot be reached.
    """
    calls = calls_of(wanted, options.addresses, texts, options.collection)
    check(wanted, calls)
    described = machine.describe()
    recorded = {
        "addresses": asdict(options.addresses),
        "collection": options.collection,
        "workers": options.workers,
        "distinct_requests": {
            workload.name: len(plan.requests) for workload, plan in zip(wanted.workloads, calls, strict=True)
        },
    }
    with watching(options.metrics) as scraped, workers(options.workers, calls, outage_s=wanted.outage_s) as pool:
        outcome = run(wanted, pool, watcher)
    return Result(name, outcome, recorded, described, scraped)


def load(  # noqa: PLR0913, PLR0917 - each is a flag
    scenario_name: Annotated[
        str, typer.Argument(metavar="SCENARIO", help=f"{', '.join(scenario.names())}; or a YAML file.")
    ],
    data: Annotated[Path, typer.Option(help="Folder of a collection in BEIR layout: real queries and documents.")],
    collection: Annotated[str, typer.Option("--collection", "-c", help="Collection to search.")] = "docs",
    search: Annotated[str, typer.Option(metavar="HOST:PORT", help="The orchestrator.")] = Addresses.search,
    embedding: Annotated[str, typer.Option(metavar="HOST:PORT")] = Addresses.embed,
    retrieval: Annotated[str, typer.Option(metavar="HOST:PORT")] = Addresses.retrieve,
    reranking: Annotated[str, typer.Option(metavar="HOST:PORT")] = Addresses.rerank,
    rate_factor: Annotated[float, typer.Option(min=0, help="Factor for the rates of all phases.")] = 1.0,
    metrics: Annotated[
        list[str] | None, typer.Option(metavar="NAME=HOST:PORT", help="Also read a server's metrics; may repeat.")
    ] = None,
    workers_: Annotated[int, typer.Option("--workers", min=1, max=64, help="Number of sending processes.")] = max(
        1, (os.cpu_count() or 1) // 4
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Quick check in a tenth of the time, not a measurement.")
    ] = False,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results. (default: a new one)")
    ] = None,
) -> None:
    """Run a load scenario against running services and write a report.

    [bold]Examples[/]

      sluice load steady --data collections/mine

      sluice load capacity --data collections/mine --metrics embedding=127.0.0.1:9101
    """
    wanted = scenario.load(scenario_name)
    wanted = wanted.sped_up(10) if quick else wanted
    wanted = _scaled(wanted, rate_factor)
    addresses = Addresses(search=search, embed=embedding, retrieve=retrieval, rerank=reranking)
    options = Options(addresses, collection, workers_, [_named(text) for text in metrics or []])
    name = Path(scenario_name).stem
    folder = out_folder or RESULTS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    texts = Texts.of(data)
    with terminal.LiveWatcher() as watcher:
        result = run_scenario(name, wanted, texts, options, watcher)
    terminal.show(result.outcome)
    for repeat in result.outcome.repeats(result.options["distinct_requests"]):
        err.print(repeat, style="yellow")
    if doubts := result.outcome.doubts:
        writer.write_raw(folder, result, failed="; ".join(doubts))
        raise CommandFailed("\n".join([*doubts, f"the raw data is in {folder}, without a report"]))
    out.print(f"report: {writer.write(folder, result)}")
    err.print("open it in a browser; the raw data is in the same folder", style="dim")


def _scaled(wanted: Scenario, factor: float) -> Scenario:
    phases = [
        phase.model_copy(
            update={"rate": phase.rate * factor, "to_rate": phase.to_rate and phase.to_rate * factor},
        )
        for phase in wanted.phases
    ]
    return wanted.model_copy(update={"phases": tuple(phases)})


def _named(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals or ":" not in address:
        raise CommandFailed(f"--metrics: expected NAME=HOST:PORT, got {text!r}")
    return name, address
