"""Streams that need no token, and streams on which the client sends nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from loadtest.attacks.attack import Result, Step, Target
from loadtest.attacks.streams import Streams
from loadtest.attacks.verdict import Bounds

_WATCH: Final = "/grpc.health.v1.Health/Watch"
_REFLECT: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_SEARCH: Final = "/sluice.search.v1.SearchService/Search"


@dataclass(frozen=True)
class HealthWatchers:
    """Streams of `Health.Watch`, more of them than a server may have calls."""

    name: ClassVar[str] = "watch"
    seed: int = 1
    streams: int = 4_400
    connections: int = 5
    health_streams: int = 150
    """On a health port."""
    hold_s: int = 8

    def bounds(self, target: Target) -> Bounds:
        """Allow the separate bound of streams without a token."""
        return Bounds(growth_mb=50)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield streams that watch, streams that say nothing, and both on a health port."""
        main, port = target.address("orchestrator"), target.health["orchestrator"]
        yield Step("watch", partial(self._many, main, _WATCH, b""))
        yield Step("watch without a message", partial(self._many, main, _WATCH, None))
        yield Step("reflection without a message", partial(self._many, main, _REFLECT, None))
        yield Step("search without a token or a message", partial(self._many, main, _SEARCH, None))
        yield Step("watch on the embedding server", partial(self._many, target.address("embedding"), _WATCH, b""))
        yield Step("watch on the health port", partial(self._few, port, b""))
        yield Step("watch without a message on the health port", partial(self._few, port, None))

    def _many(self, address: str, method: str, message: bytes | None) -> Result:
        return Result(Streams(address, method, self.streams, self.connections, self.hold_s, message).hold())

    def _few(self, address: str, message: bytes | None) -> Result:
        return Result(Streams(address, _WATCH, self.health_streams, 1, self.hold_s, message).hold())
