"""Benchmark of the orchestrator alone: its services are stubs that answer at once."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import grpc
import typer
from sluice.cli.console import CommandFailed, err
from sluice.search.v1 import search_service_pb2 as pb

from loadtest.bench import setup
from loadtest.bench.closed_loop import for_seconds
from loadtest.channels import CHANNEL_OPTIONS
from loadtest.load.calls import percentile_s
from loadtest.report import machine, terminal
from loadtest.servers import server

_SEARCH: Final = "/sluice.search.v1.SearchService/Search"
_PIPELINES: Final = ("fast", "balanced", "exact", "reranked")
_SEARCHES: Final = 1000
_WARM_UP: Final = 100
_SECONDS: Final = 10.0


def orchestrator(
    callers: Annotated[int, typer.Option(min=1, max=256, help="Concurrent searches, for the rate.")] = 16,
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="Pipeline to measure; may repeat.")
    ] = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure the orchestrator's processor time per search, and the searches per second of one process."""
    figures: dict[str, Any] = {}
    rows = []
    with server("instant", module="loadtest.bench.stub_services") as instant:
        flags = [f"--{name}={instant.address}" for name in ("embedding", "retrieval", "reranking")]
        with server("orchestrator", *flags) as one:
            for name in pipeline or _PIPELINES:
                request = pb.SearchRequest(collection="instant", query="how do planes fly", pipeline=name)
                _check(one.address, request)
                own_s, whole_s = _alone(one.pid, one.address, request, 100 if quick else _SEARCHES)
                seconds = 2.0 if quick else _SECONDS
                driven = for_seconds(one.address, _SEARCH, [request.SerializeToString()], callers, seconds)
                own, whole = median(own_s), median(whole_s)
                p99 = percentile_s(own_s, 99) or 0.0
                figures[name] = {"own_p50_s": own, "own_p99_s": p99, "whole_p50_s": whole}
                figures[name] |= {"searches_per_s": driven.per_second, "callers": callers, "own_s": own_s}
                shown = [f"{1000 * value:.2f}" for value in (own, p99, whole)]
                rows.append([name, *shown, f"{driven.per_second:.0f}"])
    head = ("pipeline", "own p50 ms", "own p99 ms", "search p50 ms", f"searches/s, {callers} callers")
    terminal.show_table(head, rows, title="orchestrator")
    if quick:
        err.print("--quick: the figures are not meaningful; they only show that it runs", style="yellow")
    record = {"bench": "orchestrator", "figures": figures, **machine.describe()}
    terminal.write_json(out / f"bench-orchestrator{'-quick' if quick else ''}.json", record)


def _check(address: str, request: pb.SearchRequest) -> None:
    """Raise CommandFailed if a search does not do all its work."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call: Any = channel.unary_unary(
            _SEARCH, request_serializer=pb.SearchRequest.SerializeToString,
            response_deserializer=pb.SearchResponse.FromString,
        )  # fmt: skip
        answer = call(request, timeout=30)
    if answer.degraded or not answer.results:
        raise CommandFailed(f"{request.pipeline}: expected a full answer of the stubs, got {answer.stages}")


def _alone(pid: int, address: str, request: pb.SearchRequest, count: int) -> tuple[list[float], list[float]]:
    """Run searches one after another. Return the orchestrator's processor seconds and the seconds until each answer."""
    own_s, whole_s = [], []
    sent = request.SerializeToString()
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call: Any = channel.unary_unary(_SEARCH)
        for _ in range(_WARM_UP + count):
            before, started = _processor_s(pid), time.perf_counter()
            call(sent, timeout=30)
            whole_s.append(time.perf_counter() - started)
            own_s.append(_processor_s(pid) - before)
    return own_s[_WARM_UP:], whole_s[_WARM_UP:]


def _processor_s(pid: int) -> float:
    """Return the processor time of all threads of a process, in seconds with nanosecond resolution."""
    return sum(_ran_ns(path) for path in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _ran_ns(task: Path) -> int:
    try:
        fields: Sequence[str] = (task / "schedstat").read_text().split()
    except OSError:  # the thread has ended
        return 0
    return int(fields[0])
