"""Benchmark of the latency that the service adds to the model's own time, for one query on an idle machine."""

import random
from statistics import median
from time import perf_counter
from typing import Any

import grpc

from loadtest.bench import setup
from loadtest.bench.closed_loop import EMBED, embed_requests
from loadtest.bench.in_process import InProcess
from loadtest.bench.setup import Setup
from loadtest.channels import CHANNEL_OPTIONS
from loadtest.load.calls import percentile_s
from loadtest.servers import server

_QUERIES = 1000
_WARM_UP = 20


def latency(plan: Setup) -> None:
    """Measure the time of one query over gRPC minus the model's own time in-process, query by query, in turn."""
    queries = list(plan.texts().queries)
    random.Random(1).shuffle(queries)  # noqa: S311
    queries = setup.enough(queries, 50 if plan.quick else _QUERIES, "queries")
    model = InProcess(plan.bundle, plan.variant, plan.threads)
    rows = model.texts(queries)
    over_grpc: list[float] = []
    in_process: list[float] = []
    with (
        server("embedding", "--bundles", str(plan.bundle), "--variant", plan.variant, "--cache-entries", "0") as one,
        grpc.insecure_channel(one.address, options=CHANNEL_OPTIONS) as channel,
    ):
        call: Any = channel.unary_unary(EMBED)
        for request, row in zip(embed_requests(queries, 1, "interactive", "query"), rows, strict=True):
            started = perf_counter()
            call(request, timeout=30)
            over_grpc.append(perf_counter() - started)
            in_process.append(model.alone(row))
    over_grpc, in_process = over_grpc[_WARM_UP:], in_process[_WARM_UP:]
    added = [a - b for a, b in zip(over_grpc, in_process, strict=True)]
    tokens = [len(row.ids) for row in rows[_WARM_UP:]]
    table = [
        ["over gRPC", _ms(median(over_grpc)), _ms(percentile_s(over_grpc, 99) or 0)],
        ["the model alone", _ms(median(in_process)), _ms(percentile_s(in_process, 99) or 0)],
        ["added by the service", _ms(median(added)), ""],
    ]
    figures = {
        "queries": len(added),
        "median_tokens": median(tokens),
        "grpc_p50_s": median(over_grpc),
        "model_p50_s": median(in_process),
        "added_p50_s": median(added),
        "grpc_s": over_grpc,
        "model_s": in_process,
    }
    plan.report(("", "p50 ms", "p99 ms"), table, figures)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
