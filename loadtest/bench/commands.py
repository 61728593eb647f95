"""`bench`: the benchmarks by name."""

import typer

from loadtest.bench import (
    attacks,
    deadlines,
    doors,
    gateway,
    late,
    latency,
    lexical,
    load,
    orchestrator,
    peers,
    retrieval,
    retrieval_filters,
    retrieval_grpc,
    retrieval_writes,
    start,
    throughput,
    tracing,
)

app = typer.Typer(help="Benchmarks: each is one question, one command, a table and a JSON file.", no_args_is_help=True)
app.command()(throughput.embed)
app.command()(throughput.rerank)
app.command()(throughput.variants)
app.command()(latency.latency)
app.command()(gateway.gateway)
app.command()(load.overload)
app.command()(load.lanes)
app.command()(orchestrator.orchestrator)
app.command()(deadlines.deadlines)
app.command()(start.start)
app.command()(retrieval.retrieval)
app.command()(retrieval.retrieval_forms)
app.command()(retrieval_grpc.retrieval_grpc)
app.command()(retrieval_writes.retrieval_writes)
app.command()(retrieval_filters.retrieval_filters)
app.command()(late.late)
app.command()(lexical.lexical)
app.command()(peers.peers)
app.command()(doors.doors)
app.command()(tracing.tracing)
app.command()(attacks.attacks)
