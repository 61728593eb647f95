"""The services behind the gateway, and the caller on whose behalf they are called.

Rule: the gateway tries nothing twice. Its callers have their own retries, and `Retry-After` to pace them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import grpc
from fastapi import Depends, Request
from grpc_health.v1 import health_pb2_grpc
from sluice.client.documents import unfit
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import Unauthenticated, from_rpc_error
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

from services.gateway.settings import GatewaySettings
from services.rpc.channel import connect
from services.rpc.deadline import Deadline
from services.rpc.server import certificates_of_calls

DEADLINE_HEADER: Final = "x-deadline-ms"
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_AUTHORIZATION_CHARACTERS: Final = 4096


class Upstream:
    """Stubs of the four services, and of their health."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self._certificates = certificates_of_calls(settings)
        self._channels = {
            name: connect(address, max_message_bytes=settings.max_message_bytes, certificates=self._certificates)
            for name, address in (
                ("orchestrator", settings.orchestrator),
                ("embedding", settings.embedding),
                ("retrieval", settings.retrieval),
                ("reranking", settings.reranking),
            )
        }
        # Typed as Any: the stubs of mypy-protobuf know the sync API alone.
        self.search: Any = SearchServiceStub(self._channels["orchestrator"])
        self.embedding: Any = EmbeddingServiceStub(self._channels["embedding"])
        self.retrieval: Any = RetrievalServiceStub(self._channels["retrieval"])
        self.reranking: Any = RerankingServiceStub(self._channels["reranking"])
        self.health: Mapping[str, Any] = {
            name: health_pb2_grpc.HealthStub(channel) for name, channel in self._channels.items()
        }

    async def watch(self, every_s: float) -> None:
        """Follow the files of certificates, until cancelled."""
        if self._certificates:
            await self._certificates.watch(every_s)

    async def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        for channel in self._channels.values():
            await channel.close()


@dataclass(frozen=True)
class Caller:
    """Who asks, how long they wait, and what is passed on with each call for them."""

    upstream: Upstream
    deadline: Deadline
    metadata: tuple[tuple[str, str], ...] = ()

    def within(self, seconds: float) -> "Caller":
        """The same caller, who waits no longer than this."""
        return replace(self, deadline=Deadline(min(self.deadline.at, Deadline.after(seconds).at)))

    async def call(self, method: Any, request: Any) -> Any:
        """The response of a call. Raises SluiceError. Cancelling this cancels the call."""
        try:
            return await method(request, timeout=self.deadline.timeout_s(), metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


def _caller(request: Request) -> Caller:
    upstream: Upstream = request.app.state.upstream
    timeout_s = _timeout_s(request.headers, upstream.settings.max_deadline_s)
    return Caller(upstream, Deadline.after(timeout_s), tuple(_metadata(request.headers)))


Called = Annotated[Caller, Depends(_caller)]
"""The caller of a route."""


def _timeout_s(headers: Mapping[str, str], most_s: float) -> float:
    """The time that a caller gives, never more than the gateway's own. Raises InvalidRequest."""
    given = headers.get(DEADLINE_HEADER)
    if given is None:
        return most_s
    if not re.fullmatch(r"[1-9][0-9]{0,8}", given):
        raise unfit(DEADLINE_HEADER, f"expected milliseconds, an integer above 0, got {given!r:.40}")
    return min(int(given) / 1000, most_s)


def _metadata(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """What travels with every call: the caller's credentials and trace."""
    passed = []
    if authorization := headers.get("authorization"):
        if len(authorization) > _MAX_AUTHORIZATION_CHARACTERS or not authorization.isascii():
            raise Unauthenticated(f"expected at most {_MAX_AUTHORIZATION_CHARACTERS:,} ASCII characters of credentials")
        passed.append(("authorization", authorization))
    # A trace that is not in W3C's form is nobody's: it is left out, as the specification says.
    if _TRACEPARENT.fullmatch(trace := headers.get("traceparent", "")):
        passed.append(("traceparent", trace))
    return passed
