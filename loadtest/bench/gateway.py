"""Benchmark of the latency that the gateway adds to a gRPC call, for one query on an idle machine."""

import json
import random
from collections.abc import Callable
from http.client import HTTPConnection
from statistics import median
from time import perf_counter
from typing import Any, Final

import grpc
from sluice.cli.console import CommandFailed

from loadtest.bench import setup
from loadtest.bench.closed_loop import EMBED, embed_requests
from loadtest.bench.setup import Setup
from loadtest.channels import CHANNEL_OPTIONS
from loadtest.load.calls import percentile_s
from loadtest.servers import server

_QUERIES: Final = 1000
_WARM_UP: Final = 20
_HEADERS: Final = {"content-type": "application/json"}


def gateway(plan: Setup) -> None:
    """Measure the time of one query over HTTP minus its time over gRPC, query by query, in turn."""
    queries = list(plan.texts().queries)
    random.Random(1).shuffle(queries)  # noqa: S311
    queries = setup.enough(queries, 50 if plan.quick else _QUERIES, "queries")
    name = json.loads((plan.bundle / "bundle.json").read_text())["name"]
    with (
        server("embedding", "--bundles", str(plan.bundle), "--variant", plan.variant, "--cache-entries", "0") as one,
        server("gateway", f"--embedding={one.address}", "--inner-routes", "open") as front,
        grpc.insecure_channel(one.address, options=CHANNEL_OPTIONS) as channel,
    ):
        call: Any = channel.unary_unary(EMBED)
        connection = HTTPConnection(front.address, timeout=30)
        sides: dict[str, Callable[[str], float]] = {
            "gRPC": lambda query: _called(call, query),
            "HTTP, base64": lambda query: _asked(connection, name, query, "base64"),
            "HTTP, floats": lambda query: _asked(connection, name, query, "float"),
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number, query in enumerate(queries):
            # Each side goes first equally often.
            for side in sorted(sides, key=lambda side: (list(sides).index(side) + number) % len(sides)):
                seconds = sides[side](query)
                if number >= _WARM_UP:
                    times[side].append(seconds)
        connection.close()
    rows = [
        [side, _ms(median(own)), _ms(percentile_s(own, 99) or 0), _added(times, side)] for side, own in times.items()
    ]
    plan.report(("", "p50 ms", "p99 ms", "added ms, median of pairs"), rows, {"queries": len(times["gRPC"]), **times})


def _called(call: Any, query: str) -> float:
    """Return the seconds of one query over gRPC."""
    [request] = embed_requests([query], 1, "interactive", "query")
    started = perf_counter()
    call(request, timeout=30)
    return perf_counter() - started


def _asked(connection: HTTPConnection, model: str, query: str, encoding: str) -> float:
    """Return the seconds of one query over HTTP. Raises CommandFailed if it is rejected."""
    body = json.dumps({"model": model, "input": query, "input_type": "query", "encoding_format": encoding})
    started = perf_counter()
    connection.request("POST", "/v1/embeddings", body, _HEADERS)
    answer = connection.getresponse()
    content = answer.read()
    took = perf_counter() - started
    if answer.status != 200:
        raise CommandFailed(f"/v1/embeddings: {answer.status}: {content.decode()}")
    return took


def _added(times: dict[str, list[float]], side: str) -> str:
    """Return the median over queries of the time beyond gRPC's."""
    pairs = zip(times[side], times["gRPC"], strict=True)
    return "" if side == "gRPC" else _ms(median(own - direct for own, direct in pairs))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
