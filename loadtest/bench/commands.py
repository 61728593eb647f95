"""`bench`: the benchmarks by name."""

import typer

from loadtest.bench import doors, latency, load, peers, retrieval, start, throughput

app = typer.Typer(help="Benchmarks: each is one question, one command, a table and a JSON file.", no_args_is_help=True)
app.command()(throughput.embed)
app.command()(throughput.rerank)
app.command()(throughput.variants)
app.command()(latency.latency)
app.command()(load.overload)
app.command()(load.lanes)
app.command()(start.start)
app.command()(retrieval.retrieval)
app.command()(peers.peers)
app.command()(doors.doors)
