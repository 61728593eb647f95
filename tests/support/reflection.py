"""A client that needs only an address: it reads messages and methods by server reflection."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Method:
    """An RPC as reflection describes it."""

    name: str
    """`/package.Service/Method`"""
    given: Any
    """Descriptor of its request message."""
    taken: Any
    """Descriptor of its response message."""
    is_unary: bool
    """Whether one request gets one response."""


class Reflected:
    """A client of all services of one server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool: Any = descriptor_pool.DescriptorPool(self._database)

    @property
    def services(self) -> set[str]:
        """Full names of the listed services."""
        return set(self._database.get_services())

    @property
    def methods(self) -> list[Method]:
        """All methods of the listed services, by name."""
        return [
            Method(
                f"/{service}/{method.name}",
                method.input_type,
                method.output_type,
                not (method.client_streaming or method.server_streaming),
            )
            for service in sorted(self.services)
            for method in self._pool.FindServiceByName(service).methods
        ]

    def health(self, service: str) -> str:
        """Return the health of a service: SERVING or NOT_SERVING."""
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    def call(self, method: str, metadata: tuple[tuple[str, str], ...] = (), **fields: Any) -> Any:
        """Return the answer of `package.Service/Method` to one message with these fields."""
        return self.call_with_headers(method, metadata, **fields)[0]

    def call_with_headers(
        self, method: str, metadata: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Return the answer, and the initial metadata."""
        given, taken = self._messages(method)
        call: Any = self._channel.unary_unary(f"/{method}", given.SerializeToString, taken.FromString)
        answer, rest = call.with_call(given(**fields), timeout=TIMEOUT_S, metadata=metadata)
        return answer, dict(rest.initial_metadata())

    def stream(
        self, method: str, messages: Iterable[dict[str, Any]], metadata: tuple[tuple[str, str], ...] = ()
    ) -> list[Any]:
        """Return the answers to a stream of messages."""
        given, taken = self._messages(method)
        call: Any = self._channel.stream_stream(f"/{method}", given.SerializeToString, taken.FromString)
        return list(call((given(**fields) for fields in messages), timeout=TIMEOUT_S, metadata=metadata))

    def collect(
        self, method: str, messages: Iterable[dict[str, Any]], metadata: tuple[tuple[str, str], ...] = ()
    ) -> Any:
        """Return the single answer to a stream of messages."""
        given, taken = self._messages(method)
        call: Any = self._channel.stream_unary(f"/{method}", given.SerializeToString, taken.FromString)
        return call((given(**fields) for fields in messages), timeout=TIMEOUT_S, metadata=metadata)

    def _messages(self, method: str) -> tuple[Any, Any]:
        service, _, name = method.partition("/")
        found = self._pool.FindServiceByName(service).methods_by_name[name]
        return tuple(message_factory.GetMessageClass(one) for one in (found.input_type, found.output_type))  # type: ignore[return-value]


@contextmanager
def reflected(address: str) -> Iterator[Reflected]:
    """Open a client for the block."""
    with grpc.insecure_channel(address) as channel:
        yield Reflected(channel)


def list_methods(address: str) -> list[Method]:
    """Return all methods of the server at an address."""
    with reflected(address) as client:
        return client.methods
