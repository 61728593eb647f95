"""Channels and credentials of load tests, from SLUICE_TOKEN, SLUICE_TLS_CA, SLUICE_TLS_CERTIFICATE, SLUICE_TLS_KEY.

Rule: credentials come only from the environment, which worker processes inherit. No flag, argument or result file has a
secret.
"""

import os
from typing import Any, Final

import grpc
from sluice.cli.console import CommandFailed
from sluice.client.credentials import Metadata, bearer, tls_credentials

CHANNEL_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def access() -> dict[str, Any]:
    """Return the arguments `token` and `credentials` of a client. Raises CommandFailed."""
    return {"token": os.environ.get("SLUICE_TOKEN") or None, "credentials": _credentials()}


def metadata() -> Metadata:
    """Return the metadata to send with every call. Raises CommandFailed."""
    try:
        return bearer(os.environ.get("SLUICE_TOKEN") or None)
    except ValueError as error:
        raise CommandFailed(f"SLUICE_TOKEN: {error}") from None


def channel(address: str) -> grpc.Channel:
    """Open a channel for single calls. Raises CommandFailed."""
    credentials = _credentials()
    if credentials is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def aio_channel(address: str) -> grpc.aio.Channel:
    """Open a channel for many concurrent calls. Raises CommandFailed."""
    credentials = _credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def _credentials() -> grpc.ChannelCredentials | None:
    ca, certificate, key = (os.environ.get(f"SLUICE_TLS_{name}") or None for name in ("CA", "CERTIFICATE", "KEY"))
    if not (ca or certificate or key):
        return None
    try:
        return tls_credentials(ca, certificate, key)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"SLUICE_TLS_CA, SLUICE_TLS_CERTIFICATE, SLUICE_TLS_KEY: {error}") from None
