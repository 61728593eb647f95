"""Channels to other services."""

from typing import Final

import grpc

# Retries belong to whoever owns the deadline and the budget, so gRPC's own are off.
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def connect(address: str, *, max_message_bytes: int) -> grpc.aio.Channel:
    """A channel to every replica behind an address, used in turn. Connects when first used."""
    sizes = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    )
    return grpc.aio.insecure_channel(address, options=(*_OPTIONS, *sizes))
