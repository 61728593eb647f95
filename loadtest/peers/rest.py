"""Closed loops of REST calls: so many threads, each with a connection that stays open."""

import base64
import http.client
import json
import struct
import threading
import time
from collections.abc import Sequence
from itertools import count
from typing import Final

from sluice.cli.console import CommandFailed

from loadtest.bench.drive import Driven

_TIMEOUT_S: Final = 300.0


def bodies(texts: Sequence[str], *, model: str = ".") -> list[bytes]:
    """Bodies of `/embeddings`, one text each. base64 is the cheapest answer that infinity gives."""
    return [json.dumps({"model": model, "input": [text], "encoding_format": "base64"}).encode() for text in texts]


def for_seconds(address: str, path: str, requests: Sequence[bytes], callers: int, seconds: float) -> Driven:
    """Requests over and over for so long; answers are read and not parsed. Raises CommandFailed when one fails."""
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
                answer = connection.getresponse()
                content = answer.read()
            except OSError as error:
                problems.append(str(error))
                return
            if answer.status != http.client.OK:
                problems.append(f"{answer.status}: {content[:300]!r}")
            latencies_s.append(time.perf_counter() - sent)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise CommandFailed(f"http://{address}{path}: {problems[0]}")
    return Driven(len(latencies_s), time.perf_counter() - start, latencies_s)


def vector(address: str, path: str, text: str) -> list[float]:
    """The vector of one text, to see that the peer does the same work."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    connection.request("POST", path, bodies([text])[0], {"Content-Type": "application/json"})
    given = json.loads(connection.getresponse().read())["data"][0]["embedding"]
    data = base64.b64decode(given)
    return list(struct.unpack(f"<{len(data) // 4}f", data))
