"""Large concurrent bodies: complete, stalled before their end, and slow."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import ClassVar, Final

from loadtest.attacks import http1
from loadtest.attacks.attack import COLLECTION, Result, Step, Target
from loadtest.attacks.verdict import Bounds

_MB: Final = 10**6
_ROOM_MB: Final = 64
_PART: Final = 2**16
_DOCUMENTS: Final = f"/documents?collection={COLLECTION}"
_JSON: Final = "application/json"
_LINES: Final = "application/jsonl"


@dataclass(frozen=True)
class Bodies:
    """Requests with bodies just below the size limit."""

    name: ClassVar[str] = "bodies"
    seed: int = 1
    connections: int = 40
    size: int = 16 * 10**6
    """Bytes of a body: below the gateway's limit of 16 MiB."""
    stall_s: int = 5
    """Seconds that a stalled body stays unfinished."""

    def bounds(self, target: Target) -> Bounds:
        """Allow the gateway's own limit of buffered bytes, and memory for parsing."""
        return Bounds(growth_mb=target.max_held_bytes / _MB + _ROOM_MB)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield stalled, slow and whole bodies for each route."""
        for path, kind, make in (
            (_DOCUMENTS, _JSON, document_body),
            (_DOCUMENTS, _LINES, line_body),
            ("/v1/embeddings", _JSON, partial(embedding_body, target.model)),
        ):
            name = f"{path.partition('?')[0]} {kind.rpartition('/')[2]}"
            body = make(self.size)
            yield Step(f"stalled {name}", partial(self._send, target, path, kind, body, self._stall))
            yield Step(f"slow {name}", partial(self._send, target, path, kind, body, self._trickle))
            yield Step(f"whole {name}", partial(self._send, target, path, kind, body, self._finish))

    def _send(self, target: Target, path: str, kind: str, body: bytes, send: Callable[[socket, bytes], str]) -> Result:
        address = target.address("gateway")
        head = http1.head(address, path, len(body), target.token, kind)

        def one(_: int) -> str:
            with http1.connect(address) as connection:
                return send(connection, head + body) if http1.try_send(connection, b"") else "closed"

        with ThreadPoolExecutor(self.connections) as threads:
            return Result(Counter(threads.map(one, range(self.connections))))

    def _stall(self, connection: socket, request: bytes) -> str:
        """Send all but the last bytes, then nothing."""
        http1.try_send(connection, request[:-16])
        return http1.status(connection, self.stall_s)

    def _trickle(self, connection: socket, request: bytes) -> str:
        """Send half at once, and the rest in small parts."""
        half = len(request) // 2
        is_open = http1.try_send(connection, request[:half])
        until = time.monotonic() + self.stall_s
        start = half
        while is_open and time.monotonic() < until:
            is_open = http1.try_send(connection, request[start : start + _PART])
            start += _PART
            time.sleep(0.1)
        return http1.status(connection, 0.1)

    def _finish(self, connection: socket, request: bytes) -> str:
        """Send all, and wait for the answer."""
        http1.try_send(connection, request)
        return http1.status(connection)


def document_body(size: int) -> bytes:
    """Return documents that are all refused, so that what is measured is the body: their text is too long."""
    return json.dumps([{"id": f"b{number}", "text": "x" * 100_000} for number in range(size // 100_040)]).encode()


def line_body(size: int) -> bytes:
    """Return one line without an end for every MB, which is less than a line may have."""
    line = json.dumps({"id": "b", "text": "x" * 900_000}).encode() + b"\n"
    return line * (size // len(line))


def embedding_body(model: str, size: int) -> bytes:
    """Return texts to embed, each of them too long."""
    return json.dumps({"model": model, "input": ["x" * 100_000] * (size // 100_040)}).encode()
