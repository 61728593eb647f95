"""Calls with a token that hold resources and do nothing: idle index streams, and searches with tiny deadlines."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from sluice.search.v1 import search_service_pb2 as pb

from loadtest.attacks.attack import COLLECTION, Result, Step, Target
from loadtest.attacks.calls import call_all, repeated
from loadtest.attacks.streams import Streams
from loadtest.attacks.system import INDEX, SEARCH
from loadtest.attacks.verdict import Bounds

_DEADLINES_S: Final = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class OpenStreams:
    """Streams that stay open, and calls that end before they are answered."""

    name: ClassVar[str] = "streams"
    seed: int = 1
    streams: int = 1_000
    connections: int = 2
    hold_s: int = 8
    searches: int = 2_000
    at_once: int = 64

    def bounds(self, target: Target) -> Bounds:
        """Allow a few KB per stream."""
        return Bounds(growth_mb=100)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield index streams without a message, with one alone, and searches of each deadline."""
        begun = pb.IndexRequest(collection=COLLECTION).SerializeToString()
        yield Step("index streams without a message", partial(self._index, target, None, ends=False))
        yield Step("index streams with one message", partial(self._index, target, begun, ends=False))
        yield Step("index streams that end", partial(self._index, target, begun, ends=True))
        for deadline_s in _DEADLINES_S:
            yield Step(f"searches of {1000 * deadline_s:g} ms", partial(self._search, target, deadline_s))

    def _index(self, target: Target, message: bytes | None, *, ends: bool) -> Result:
        address = target.address("orchestrator")
        streams = Streams(
            address, INDEX, self.streams, self.connections, self.hold_s, message, ends, target.authorization
        )
        return Result(streams.hold())

    def _search(self, target: Target, deadline_s: float) -> Result:
        request = pb.SearchRequest(collection=COLLECTION, query="nobody waits for this", pipeline="fast")
        answers = call_all(
            target.address("orchestrator"), SEARCH, repeated(request, self.searches), at_once=self.at_once,
            timeout_s=deadline_s, metadata=target.authorization,
        )  # fmt: skip
        return Result(answers)
