"""Connections without requests, with slow requests, and with large heads."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from loadtest.attacks import http1
from loadtest.attacks.attack import Result, Step, Target
from loadtest.attacks.verdict import Bounds

_BEGINNING: Final = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n"
_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Connections:
    """Connections without a request."""

    name: ClassVar[str] = "connections"
    seed: int = 1
    silent: int = 900
    """Below the gateway's limit of connections, 1,024: beyond it, others are refused too."""
    slow: int = 500
    hold_s: int = 13
    """Longer than a head may take, 10 s."""
    large_heads: int = 200
    head_bytes: int = 1_000_000

    def bounds(self, target: Target) -> Bounds:
        """Allow a file descriptor and about 50 KB per connection."""
        return Bounds(growth_mb=100)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield silent connections to each kind of server, then slow and large heads."""
        for server in ("gateway", "orchestrator"):
            yield Step(f"silent connections to the {server}", partial(self._silent, target.address(server)))
        gateway = target.address("gateway")
        yield Step("silent connections to the health port", partial(self._silent, target.health["orchestrator"]))
        yield Step("slow heads", partial(self._slow, gateway))
        yield Step("heads over the limit in many headers", partial(self._large, gateway, self._many_headers()))
        yield Step("heads over the limit in one header", partial(self._large, gateway, self._one_header()))
        yield Step("targets over the limit", partial(self._large, gateway, self._long_target()))

    def _silent(self, address: str) -> Result:
        connections = [http1.connect(address) for _ in range(self.silent)]
        try:
            time.sleep(self.hold_s)
            return Result(http1.statuses(connections, timeout_s=0.001))
        finally:
            http1.close(connections)

    def _slow(self, address: str) -> Result:
        connections = [http1.connect(address) for _ in range(self.slow)]
        try:
            for connection in connections:
                http1.try_send(connection, _BEGINNING)
            until = time.monotonic() + self.hold_s
            while time.monotonic() < until:
                for connection in connections:
                    http1.try_send(connection, b"x-a: b\r\n")
                time.sleep(1)
            return Result(http1.statuses(connections, timeout_s=0.001))
        finally:
            http1.close(connections)

    def _large(self, address: str, head: bytes) -> Result:
        def one(_: int) -> str:
            with http1.connect(address) as connection:
                http1.try_send(connection, head)
                return http1.status(connection)

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return Result(Counter(threads.map(one, range(self.large_heads))))

    def _many_headers(self) -> bytes:
        return _BEGINNING + b"x-a: 0123456789\r\n" * (self.head_bytes // 17) + b"\r\n"

    def _one_header(self) -> bytes:
        return _BEGINNING + b"x-a: " + b"x" * self.head_bytes + b"\r\n\r\n"

    def _long_target(self) -> bytes:
        return b"GET /health?" + b"x" * self.head_bytes + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
