"""The services behind the gateway, and the caller on whose behalf they are called.

Rule: the gateway tries nothing twice. Its callers have their own retries, and `Retry-After` to pace them.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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

from services.gateway.access import Method, Rights
from services.gateway.held import Share
from services.gateway.settings import GatewaySettings
from services.rpc.client.channel import connect
from services.rpc.deadline import Deadline
from services.rpc.server.lifecycle import certificates_of_calls

DEADLINE_HEADER: Final = "x-deadline-ms"
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# What gRPC takes as the value of metadata, and no more than a token can have.
_AUTHORIZATION: Final = re.compile(r"[ -~]{1,4096}")


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
        # Streams have connections of their own: a connection has a limit of calls, and slow uploads would use it up.
        self._channels["indexing"] = connect(
            settings.orchestrator,
            max_message_bytes=settings.max_message_bytes,
            certificates=self._certificates,
            is_shared=False,
        )
        orchestrator = ("orchestrator", "indexing")
        methods: dict[str, Any] = {
            name: _Methods(one, is_inner=name not in orchestrator) for name, one in self._channels.items()
        }
        # Typed as Any: the stubs of mypy-protobuf know the sync API alone.
        self.search: Any = SearchServiceStub(methods["orchestrator"])
        self.indexing: Any = SearchServiceStub(methods["indexing"])
        self.embedding: Any = EmbeddingServiceStub(methods["embedding"])
        self.retrieval: Any = RetrievalServiceStub(methods["retrieval"])
        self.reranking: Any = RerankingServiceStub(methods["reranking"])
        self.health: Mapping[str, Any] = {
            name: health_pb2_grpc.HealthStub(one) for name, one in methods.items() if name != "indexing"
        }

    async def watch(self, every_s: float) -> None:
        """Follow the files of certificates, until cancelled."""
        if self._certificates:
            await self._certificates.watch(every_s)

    async def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        for channel in self._channels.values():
            await channel.close()


class _Methods:
    """A channel whose stubs have methods that only a `Caller` can call."""

    def __init__(self, channel: grpc.aio.Channel, *, is_inner: bool) -> None:
        self._channel = channel
        self._is_inner = is_inner

    def unary_unary(self, path: str, *serializers: Any, **options: Any) -> Method:
        rpc = self._channel.unary_unary(path, *serializers, **options)
        return Method(path, is_inner=self._is_inner, rpc=rpc)

    def unary_stream(self, path: str, *serializers: Any, **options: Any) -> Method:
        return self._stream(self._channel.unary_stream, path, *serializers, **options)

    def stream_unary(self, path: str, *serializers: Any, **options: Any) -> Method:
        return self._stream(self._channel.stream_unary, path, *serializers, **options)

    def stream_stream(self, path: str, *serializers: Any, **options: Any) -> Method:
        return self._stream(self._channel.stream_stream, path, *serializers, **options)

    def _stream(self, make: Any, path: str, *serializers: Any, **options: Any) -> Method:
        # Made for each stream: a channel by TLS is another one after its certificates changed.
        return Method(path, is_inner=self._is_inner, rpc=partial(make, path, *serializers, **options))


@dataclass(frozen=True)
class Caller:
    """The caller of a request: its deadline, its rights, and the metadata that is passed on with each call."""

    upstream: Upstream
    deadline: Deadline
    rights: Rights
    answer: Share
    """What the answer takes of the memory that answers may hold."""
    metadata: tuple[tuple[str, str], ...] = ()

    def within(self, seconds: float) -> "Caller":
        """The same caller, who waits no longer than this."""
        return replace(self, deadline=Deadline(min(self.deadline.at, Deadline.after(seconds).at)))

    def check_size(self, field: str, text: str) -> None:
        """Raise InvalidRequest for a text that the services refuse as too large."""
        most = self.upstream.settings.max_text_bytes
        if 4 * len(text) > most and (size := len(text.encode())) > most:
            raise unfit(field, f"expected at most {most:,} bytes of UTF-8, got {size:,}")

    def check_sizes(self, field: str, texts: Sequence[str]) -> None:
        """Raise InvalidRequest for the first text that the services refuse as too large."""
        for position, text in enumerate(texts):
            self.check_size(f"{field}[{position}]", text)

    async def call(self, method: Method, request: Any) -> Any:
        """Return the response of a call. Raises SluiceError. Cancelling this cancels the call."""
        await self.rights.check(method, request)
        try:
            return await method.rpc(request, timeout=self.deadline.timeout_s(), metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def stream(self, method: Method, first: Any) -> Any:
        """Return what opens a stream: a function of its messages, of which `first` will be the first.

        Raises SluiceError unless the caller may open it.
        """
        await self.rights.check(method, first)

        def opened(messages: AsyncIterator[Any]) -> Any:
            return method.rpc()(self.rights.throttled(messages), metadata=self.metadata)

        return opened


def _caller(request: Request) -> Caller:
    upstream: Upstream = request.app.state.upstream
    state = request.state
    timeout_s = _timeout_s(request.headers, upstream.settings.max_deadline_s)
    return Caller(upstream, Deadline.after(timeout_s), state.rights, state.answer, tuple(_metadata(request.headers)))


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
        if not _AUTHORIZATION.fullmatch(authorization):
            raise Unauthenticated(
                "authorization: expected at most 4,096 printable ASCII characters, got something else"
            )
        passed.append(("authorization", authorization))
    # A trace that is not in W3C's form is nobody's: it is left out, as the specification says.
    if _TRACEPARENT.fullmatch(trace := headers.get("traceparent", "")):
        passed.append(("traceparent", trace))
    return passed
