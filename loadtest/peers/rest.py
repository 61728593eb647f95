"""Closed loops of REST calls, with a thread and a persistent connection for each caller."""

import http.client
import threading
import time
from collections.abc import Sequence
from itertools import count
from typing import Final

from sluice.cli.console import CommandFailed

from loadtest.bench.closed_loop import Driven

_TIMEOUT_S: Final = 300.0


def for_seconds(address: str, path: str, requests: Sequence[bytes], callers: int, seconds: float) -> Driven:
    """Send the requests repeatedly; answers are read but not parsed. Raises CommandFailed if one fails."""
    latencies_s: list[float] = []
    problems: list[str] = []
    numbers = count()
    start = time.perf_counter()

    def caller() -> None:
        connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
        while time.perf_counter() < start + seconds and not problems:
            body = requests[next(numbers) % len(requests)]
            sent = time.perf_counter()
            try:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                given = connection.getresponse()
                content = given.read()
            except OSError as error:
                problems.append(str(error))
                return
            if given.status != http.client.OK:
                problems.append(f"{given.status}: {content[:300]!r}")
            latencies_s.append(time.perf_counter() - sent)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise CommandFailed(f"http://{address}{path}: {problems[0]}")
    return Driven(len(latencies_s), time.perf_counter() - start, latencies_s)


def answer(address: str, path: str, body: bytes) -> bytes:
    """Return the answer to one call. Raises CommandFailed if it is not OK."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    given = connection.getresponse()
    content = given.read()
    if given.status != http.client.OK:
        raise CommandFailed(f"http://{address}{path}: {given.status}: {content[:300]!r}")
    return content
