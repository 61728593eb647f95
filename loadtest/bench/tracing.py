"""Benchmark of the cost of traces per call: off, on, and on with a collector that is unreachable."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter
from typing import Any, Final

import grpc

from loadtest.bench import setup
from loadtest.bench.closed_loop import EMBED, embed_requests
from loadtest.bench.disabled_tracing import off_s
from loadtest.bench.setup import Setup, alternate, ratio
from loadtest.channels import CHANNEL_OPTIONS
from loadtest.servers import server

_CALLS: Final = 3000
_WARM_UP: Final = 50
_MICRO_CALLS: Final = 100_000


def tracing(
    bundle: setup.Bundle,
    data: setup.Data,
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure a cached query with one caller: traces off, on, and on with an unreachable collector.

    It is the cheapest call, so added time is visible. When on, every call is traced.
    """
    plan = Setup("tracing", bundle, data, quick=quick, out=out, rounds_wanted=rounds)
    query = plan.texts().queries[0]
    (request,) = embed_requests([query], 1, "interactive", "query")
    calls = 300 if quick else _CALLS
    with ExitStack() as stack:
        sides: dict[str, Callable[[], float]] = {}
        for side, endpoint in {
            "off": None,
            "on": stack.enter_context(_sink()),
            "on, collector away": stack.enter_context(_nobody()),
        }.items():
            options = ["--otlp-endpoint", endpoint] if endpoint else []
            one = stack.enter_context(server("embedding", "--bundles", str(bundle), *options))
            channel = stack.enter_context(grpc.insecure_channel(one.address, options=CHANNEL_OPTIONS))
            sides[side] = _timed(channel, request, calls)
        found = alternate(plan.rounds, sides)
    places_s = off_s(_MICRO_CALLS // (100 if quick else 1))
    rows = [[name, f"{1e6 * median(own):.0f}", f"{ratio(own, found['off']):.3f}"] for name, own in found.items()]
    rows.append(["of which the places, off", f"{1e6 * places_s:.2f}", ""])
    plan.report(("traces", "µs a call, p50", "÷ off"), rows, {"p50_s": found, "places_off_s": places_s})


def _timed(channel: grpc.Channel, request: bytes, calls: int) -> Callable[[], float]:
    """Return a function that measures the median of so many calls, in seconds."""
    call: Any = channel.unary_unary(EMBED)

    def run() -> float:
        times = []
        for number in range(_WARM_UP + calls):
            started = perf_counter()
            call(request, timeout=30)
            if number >= _WARM_UP:
                times.append(perf_counter() - started)
        return median(times)

    return run


@contextmanager
def _sink() -> Iterator[str]:
    """Yield the address of a collector that accepts everything and parses nothing."""
    take: Any = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    export = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": take}
    )
    sink = grpc.server(ThreadPoolExecutor(1))
    sink.add_generic_rpc_handlers((export,))
    port = sink.add_insecure_port("127.0.0.1:0")
    sink.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        sink.stop(None)


@contextmanager
def _nobody() -> Iterator[str]:
    """Yield an address that is in use but does not answer."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
