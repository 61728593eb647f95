"""`bench`: the benchmarks by name."""

import typer

from loadtest.attacks.command import attacks
from loadtest.bench import (
    compat_apis,
    deadlines,
    gateway,
    latency,
    orchestrator,
    peers,
    scenarios,
    start,
    throughput,
    tracing,
)
from loadtest.bench.retrieval import faiss_comparison, filters, late_interaction, lexical, scaling, writes

app = typer.Typer(help="Benchmarks: each is one question, one command, a table and a JSON file.", no_args_is_help=True)
app.command()(throughput.embed)
app.command()(throughput.rerank)
app.command()(throughput.variants)
app.command()(latency.latency)
app.command()(gateway.gateway)
app.command()(scenarios.overload)
app.command()(scenarios.lanes)
app.command()(orchestrator.orchestrator)
app.command()(deadlines.deadlines)
app.command()(start.start)
app.command()(scaling.retrieval)
app.command()(scaling.retrieval_forms)
app.command()(faiss_comparison.retrieval_grpc)
app.command()(writes.retrieval_writes)
app.command()(filters.retrieval_filters)
app.command()(late_interaction.late)
app.command()(lexical.lexical)
app.command()(peers.peers)
app.command()(compat_apis.doors)
app.command()(tracing.tracing)
app.command()(attacks)
