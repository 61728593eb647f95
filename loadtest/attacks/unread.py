"""Large answers that the client never reads."""

import json
import random
import select
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import ClassVar, Final

from sluice.common.v1.model_pb2 import TEXT_ROLE_QUERY
from sluice.embedding.v1 import embedding_service_pb2 as pb

from loadtest.attacks import http1, http2
from loadtest.attacks.attack import Result, Step, Target
from loadtest.attacks.verdict import Bounds

_SMALL_BUFFER: Final = 4096
_EMBED: Final = "/sluice.embedding.v1.EmbeddingService/Embed"
_TEXTS_OF_A_CALL: Final = 256


@dataclass(frozen=True)
class UnreadAnswers:
    """Callers that ask for many vectors and read none of them."""

    name: ClassVar[str] = "unread"
    seed: int = 1
    connections: int = 40
    inputs: int = 2048
    words: int = 64
    """Different inputs, so few that the server answers most of them from its cache."""
    hold_s: int = 5
    """Seconds that the answers stay unread once each has begun."""

    def bounds(self, target: Target) -> Bounds:
        """Allow buffers of a bounded size."""
        return Bounds(growth_mb=200)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield answers over HTTP, in two forms, and over gRPC."""
        chance = random.Random(self.seed)  # noqa: S311
        words = [f"w{chance.randrange(10**6)}" for _ in range(self.words)]
        texts = [words[number % len(words)] for number in range(self.inputs)]
        yield Step("HTTP, floats", partial(self._over_http, target, texts, "float"))
        yield Step("HTTP, base64", partial(self._over_http, target, texts, "base64"))
        yield Step("gRPC", partial(self._over_grpc, target, texts[:_TEXTS_OF_A_CALL]))

    def _over_http(self, target: Target, texts: Sequence[str], encoding: str) -> Result:
        body = json.dumps({"model": target.model, "input": texts, "encoding_format": encoding}).encode()
        address = target.address("gateway")
        request = http1.head(address, "/v1/embeddings", len(body), target.token) + body
        connections = [http1.connect(address, receive_buffer=_SMALL_BUFFER) for _ in range(self.connections)]
        try:
            for connection in connections:
                http1.try_send(connection, request)
            _await_beginnings(connections)
            time.sleep(self.hold_s)
            return Result(http1.statuses(connections, timeout_s=0.01))
        finally:
            http1.close(connections)

    def _over_grpc(self, target: Target, texts: Sequence[str]) -> Result:
        request = pb.EmbedRequest(model=target.model, texts=texts, role=TEXT_ROLE_QUERY)
        request.representations.append(pb.REPRESENTATION_DENSE)
        calls = [http2.Call.begin(target.address("embedding"), _EMBED, window=0) for _ in range(self.connections)]
        try:
            for call in calls:
                call.send(request.SerializeToString())
            time.sleep(self.hold_s)
            return Result(Counter(open=len(calls)))
        finally:
            for call in calls:
                call.close()


def _await_beginnings(connections: Sequence[socket], timeout_s: float = 60.0) -> None:
    """Wait until each connection has the beginning of an answer, or has ended."""
    waiting = set(connections)
    until = time.monotonic() + timeout_s
    while waiting and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(list(waiting), [], [], left)
        waiting.difference_update(ready)
