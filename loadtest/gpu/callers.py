"""Callers of embedding servers in processes of their own, and what they see."""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Literal, TypeVar

import numpy as np

from kit import ON_CPU
from texts import texts_of

TOKENS: Final = 50
"""Tokens of each text."""

_SECONDS: Final = 1.0 if ON_CPU else 2.5
_WARM_UP_S: Final = 1.0
_PROCESSES: Final = 2 if ON_CPU else 6
_CHANNELS: Final = 2  # of a process to each server
_CALL_TIMEOUT_S: Final = 30.0
_RESULT_TIMEOUT_S: Final = 90.0
_METHOD: Final = "/sluice.embedding.v1.EmbeddingService/Embed"

T = TypeVar("T")
Calls = tuple[list[tuple[float, float]], Counter[str]]
"""Begin and end of each call that succeeded, and how many calls ended with each status code."""


@dataclass(frozen=True)
class Load:
    """What callers send, and for how long."""

    requests: Sequence[bytes]
    callers: int
    texts_per_call: int
    seconds: float = _SECONDS


@dataclass(frozen=True)
class Seen:
    """What the callers saw."""

    codes: dict[str, int]
    """Calls by status code."""
    texts_per_s: float | None = None
    tokens_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    def fields(self) -> dict[str, object]:
        """Return the fields for a result; without speeds when no call succeeded."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def embed_requests(texts_per_call: int, count: int, lane: Literal["interactive", "bulk"]) -> list[bytes]:
    """Return serialized Embed requests with different texts."""
    from sluice.common.v1 import model_pb2
    from sluice.embedding.v1 import embedding_service_pb2 as pb

    texts = texts_of(TOKENS, texts_per_call * count)
    number = model_pb2.LANE_BULK if lane == "bulk" else model_pb2.LANE_INTERACTIVE
    groups = [texts[at * texts_per_call : (at + 1) * texts_per_call] for at in range(count)]
    return [pb.EmbedRequest(texts=group, lane=number).SerializeToString() for group in groups]


def drive(addresses: Sequence[str], load: Load) -> Seen:
    """Return what callers in several processes see after a second of warm-up."""
    count = min(_PROCESSES, load.callers)
    shares = [load.callers // count + (at < load.callers % count) for at in range(count)]
    tasks = [partial(_client, addresses, load, share, at) for at, share in enumerate(shares)]
    results = run_forked(tasks, load.seconds + _RESULT_TIMEOUT_S)
    times = sorted((ended, ended - began) for calls, _ in results for began, ended in calls)
    codes = dict(sum((found for _, found in results), Counter[str]()))
    if not times:
        return Seen(codes)
    start = times[0][0] + _WARM_UP_S
    kept = [took for ended, took in times if ended > start] or [took for _, took in times]
    texts_per_s = len(kept) * load.texts_per_call / max(times[-1][0] - start, 1e-3)
    p50, p99 = (1e3 * float(value) for value in np.quantile(kept, (0.5, 0.99)))
    return Seen(codes, texts_per_s, texts_per_s * TOKENS, p50, p99)


def run_forked(tasks: Sequence[Callable[[], T]], timeout_s: float) -> list[T]:
    """Return the results of tasks in child processes, in any order.

    Rule: gRPC runs in such children only, because a process that has used it cannot be forked safely.
    """
    context = multiprocessing.get_context("fork")
    sink = context.Queue()
    children = [context.Process(target=_put, args=(task, sink)) for task in tasks]
    for child in children:
        child.start()
    results = [sink.get(timeout=timeout_s) for _ in children]
    for child in children:
        child.join()
    return results


def _put(task: Callable[[], object], sink: Any) -> None:
    sink.put(task())


def _client(addresses: Sequence[str], load: Load, callers: int, seed: int) -> Calls:
    return asyncio.run(_call(addresses, load, callers, seed))


async def _call(addresses: Sequence[str], load: Load, callers: int, seed: int) -> Calls:
    """Send calls one after the other from each caller until the time is over."""
    import grpc

    options = [("grpc.max_receive_message_length", 2**28), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for address in addresses for _ in range(_CHANNELS)]
    calls: list[Any] = [channel.unary_unary(_METHOD) for channel in channels]
    codes: Counter[str] = Counter()
    times: list[tuple[float, float]] = []
    end = time.monotonic() + load.seconds + _WARM_UP_S

    async def caller(number: int) -> None:
        at = (seed * 7919 + number * 104729) % len(load.requests)
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                await calls[number % len(calls)](load.requests[at], timeout=_CALL_TIMEOUT_S)
                times.append((began, time.monotonic()))
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
                await asyncio.sleep(0.01)
            at = (at + 1) % len(load.requests)

    await asyncio.gather(*map(caller, range(callers)))
    for channel in channels:
        await channel.close()
    return times, codes
