"""Channels to other services.

Facts: a channel keeps the certificates it was made with, so it is made anew when they change; the old one ends once its
calls have. gRPC looks a name up again when a connection ends, and else never: servers end them from time to time.
"""

import asyncio
from typing import Any, Final

import grpc

from services.rpc.auth.tls import Certificates

# Retries belong to whoever owns the deadline and the budget, so gRPC's own are off.
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC's own is 30 s, for which new replicas would wait for their share.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)
# How long calls of a channel that was replaced may still take, in seconds.
_GRACE_S: Final = 60.0


def connect(
    address: str, *, max_message_bytes: int, certificates: Certificates | None = None, is_shared: bool = True
) -> grpc.aio.Channel:
    """A channel to every replica behind an address, used in turn; by TLS with certificates. Connects when used.

    is_shared  use the connections of other channels to the same address, as gRPC does by itself
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
    """A channel that is made anew when its certificates change. Belongs to the event loop."""

    def __init__(self, address: str, options: tuple[tuple[str, Any], ...], certificates: Certificates) -> None:
        self._address = address
        self._options = options
        self._certificates = certificates
        self._channel = self._open()
        self._closing: set[asyncio.Task[None]] = set()
        certificates.on_change.append(self._renew)

    def unary_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        """A callable that uses the channel there is when it is called."""
        channel, call = self._channel, self._channel.unary_unary(method, *serializers, **options)

        def current(*arguments: Any, **named: Any) -> Any:
            nonlocal channel, call
            if channel is not self._channel:
                channel, call = self._channel, self._channel.unary_unary(method, *serializers, **options)
            return call(*arguments, **named)

        return current

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """Of the channel there is now: servers call each other without streams."""
        return self._channel.unary_stream(*arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """Of the channel there is now."""
        return self._channel.stream_unary(*arguments, **options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """Of the channel there is now."""
        return self._channel.stream_stream(*arguments, **options)

    async def close(self, grace: float | None = None) -> None:
        """Close it; calls under way are cancelled after the grace."""
        self._certificates.on_change.remove(self._renew)
        for task in self._closing:
            task.cancel()
        await self._channel.close(grace)

    async def __aenter__(self) -> "_TlsChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the channel there is now."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the channel there is now."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the channel there is now."""
        await self._channel.channel_ready()

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._address, self._certificates.channel_credentials(), options=self._options)

    def _renew(self) -> None:
        old, self._channel = self._channel, self._open()
        task = asyncio.get_running_loop().create_task(old.close(_GRACE_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
