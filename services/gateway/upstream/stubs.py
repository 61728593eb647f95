"""Stubs of the services behind the gateway."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

from services.gateway.access import Method
from services.gateway.settings import GatewaySettings
from services.rpc.client.channel import connect
from services.rpc.server.lifecycle import certificates_of_calls


class Upstream:
    """Connections to the four services, and stubs whose methods a `Caller` calls."""

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
        # Index streams have their own connection. The number of calls on a connection is limited, and slow uploads
        # would use up the connection of the searches.
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
        # Typed as Any because the stubs of mypy-protobuf declare the synchronous API only.
        self.search: Any = SearchServiceStub(methods["orchestrator"])
        self.indexing: Any = SearchServiceStub(methods["indexing"])
        self.embedding: Any = EmbeddingServiceStub(methods["embedding"])
        self.retrieval: Any = RetrievalServiceStub(methods["retrieval"])
        self.reranking: Any = RerankingServiceStub(methods["reranking"])
        self.health: Mapping[str, Any] = {
            name: health_pb2_grpc.HealthStub(one) for name, one in methods.items() if name != "indexing"
        }

    async def watch(self, every_s: float) -> None:
        """Reload the certificates when their files change, until cancelled."""
        if self._certificates:
            await self._certificates.watch(every_s)

    async def close(self) -> None:
        """Close the connections and cancel the calls on them."""
        for channel in self._channels.values():
            await channel.close()


class _Methods:
    """A channel for the constructors of stubs, which makes their methods `Method` objects in place of callables."""

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
        # Built for each stream, because a channel that uses TLS is replaced when its certificates change.
        return Method(path, is_inner=self._is_inner, rpc=partial(make, path, *serializers, **options))
