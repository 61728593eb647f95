"""Messages of half a megabyte that decompress to half a gigabyte."""

import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar, Final, Literal

from loadtest.attacks import http2
from loadtest.attacks.attack import Result, Step, Target
from loadtest.attacks.verdict import Bounds

_BLOCK: Final = 2**20
_STRING_FIELD: Final = b"\x0a"
# 16 is gzip's own header around deflate; without it, zlib's.
_WINDOW: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

Encoding = Literal["gzip", "deflate"]


@dataclass(frozen=True)
class GzipBombs:
    """Compressed messages to health checks and to calls."""

    name: ClassVar[str] = "gzip"
    seed: int = 1
    unpacked_mb: int = 500
    at_once: int = 3
    calls: int = 6
    """Each on a connection of its own."""

    def bounds(self, target: Target) -> Bounds:
        """Allow no decompression, or a bounded one."""
        return Bounds(growth_mb=100)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield one step for each method and encoding."""
        places: tuple[tuple[str, str, Encoding], ...] = (
            ("orchestrator", "/grpc.health.v1.Health/Check", "gzip"),
            ("orchestrator", "/grpc.health.v1.Health/Check", "deflate"),
            ("orchestrator", "/sluice.search.v1.SearchService/Search", "gzip"),
            ("orchestrator", "/sluice.search.v1.SearchService/Index", "gzip"),
            ("embedding", "/sluice.embedding.v1.EmbeddingService/Embed", "gzip"),
            ("retrieval", "/sluice.retrieval.v1.RetrievalService/Retrieve", "gzip"),
        )
        for server, method, encoding in places:
            name = f"{encoding} to {method.rpartition('.')[2]}"
            yield Step(name, partial(self._send, target, server, method, encoding))
        yield Step("gzip to Check on the health port", partial(self._send, target, "", places[0][1], "gzip"))

    def _send(self, target: Target, server: str, method: str, encoding: Encoding) -> Result:
        address = target.address(server) if server else target.health["orchestrator"]
        bomb = bomb_of(self.unpacked_mb, encoding)
        headers = [("grpc-encoding", encoding), *target.authorization]

        def call(_: int) -> str:
            one = http2.Call.begin(address, method, headers)
            try:
                one.send(bomb, compressed=True)
                return one.finish()
            finally:
                one.close()

        with ThreadPoolExecutor(self.at_once) as threads:
            return Result(Counter(threads.map(call, range(self.calls))))


@lru_cache(maxsize=2)
def bomb_of(unpacked_mb: int, encoding: Encoding) -> bytes:
    """Return a compressed message whose first field is a string of so many MB."""
    size = unpacked_mb * _BLOCK
    packer = zlib.compressobj(9, zlib.DEFLATED, _WINDOW[encoding])
    parts = [packer.compress(_STRING_FIELD + _varint(size))]
    parts += [packer.compress(b"a" * _BLOCK) for _ in range(unpacked_mb)]
    return b"".join([*parts, packer.flush()])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes((*out, value))
