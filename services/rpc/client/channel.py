"""Channels to other services.

Facts: a channel keeps the certificates that it was created with, so it is replaced when they change, and the old one is
closed once its calls have ended. gRPC resolves a name again only when a connection ends, so servers close connections
from time to time.
"""

import asyncio
from typing import Any, Final

import grpc

from services.rpc.auth.tls import Certificates

# Retries belong to the owner of the deadline and the retry budget, so gRPC's own retries are off.
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC's default of 30 s would delay the use of new replicas.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)
# Seconds that calls of a replaced channel may still take.
_GRACE_S: Final = 60.0


def connect(
    address: str, *, max_message_bytes: int, certificates: Certificates | None = None, is_shared: bool = True
) -> grpc.aio.Channel:
    """Return a channel to all replicas behind an address, used in turn, with TLS if there are certificates.

    is_shared  share connections with other channels to the same address, as gRPC does by default
    """
    options = (
        *_OPTIONS,
        ("grpc.use_local_subchannel_pool", int(not is_shared)),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    )
    if certificates is None:
        return grpc.aio.insecure_channel(address, options=options)
    return _TlsChannel(address, options, certificates)


class _TlsChannel(grpc.aio.Channel):
    """A channel that is replaced when its certificates change. Belongs to the event loop."""

    def __init__(self, address: str, options: tuple[tuple[str, Any], ...], certificates: Certificates) -> None:
        self._address = address
        self._options = options
        self._certificates = certificates
        self._channel = self._open()
        self._closing: set[asyncio.Task[None]] = set()
        certificates.on_change.append(self._renew)

    def unary_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        """Return a callable that uses the current channel of each call."""
        channel, call = self._channel, self._channel.unary_unary(method, *serializers, **options)

        def current(*arguments: Any, **named: Any) -> Any:
            nonlocal channel, call
            if channel is not self._channel:
                channel, call = self._channel, self._channel.unary_unary(method, *serializers, **options)
            return call(*arguments, **named)

        return current

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """Use the current channel. Servers call each other without streams."""
        return self._channel.unary_stream(*arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """Use the current channel."""
        return self._channel.stream_unary(*arguments, **options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """Use the current channel."""
        return self._channel.stream_stream(*arguments, **options)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel. Calls in progress are cancelled after the grace period."""
        self._certificates.on_change.remove(self._renew)
        for task in self._closing:
            task.cancel()
        await self._channel.close(grace)

    async def __aenter__(self) -> "_TlsChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Use the current channel."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Use the current channel."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Use the current channel."""
        await self._channel.channel_ready()

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._address, self._certificates.channel_credentials(), options=self._options)

    def _renew(self) -> None:
        old, self._channel = self._channel, self._open()
        task = asyncio.get_running_loop().create_task(old.close(_GRACE_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
