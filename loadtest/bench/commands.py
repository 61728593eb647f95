"""The command `bench`: all benchmarks by name."""

import typer

from loadtest.attacks.command import attacks
from loadtest.bench import (
    compat_apis,
    cost,
    deadlines,
    frameworks,
    gateway,
    latency,
    long_documents,
    orchestrator,
    peers,
    scenarios,
    start,
    throughput,
    tracing,
)
from loadtest.bench.retrieval import faiss_comparison, filters, late_interaction, lexical, scaling, writes
from loadtest.bench.setup import benchmark, benchmark_in_rounds

app = typer.Typer(
    help="Benchmarks. Each answers one question and writes a table and a JSON file.", no_args_is_help=True
)
app.command()(benchmark_in_rounds(throughput.embed))
app.command()(benchmark_in_rounds(throughput.rerank))
app.command()(benchmark_in_rounds(throughput.variants, variant="int8"))
app.command()(frameworks.frameworks)
app.command()(benchmark(latency.latency))
app.command()(benchmark(gateway.gateway))
app.command()(benchmark(scenarios.overload))
app.command()(benchmark(scenarios.lanes))
app.command()(orchestrator.orchestrator)
app.command()(deadlines.deadlines)
app.command()(long_documents.long_documents)
app.command()(benchmark_in_rounds(start.start))
app.command()(benchmark_in_rounds(cost.cost))
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
