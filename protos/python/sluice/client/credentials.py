"""Credentials of a client: certificate and token; and the trace context of its calls."""

import re
import sys
from pathlib import Path
from typing import Final

import grpc

Metadata = tuple[tuple[str, str], ...]

AUTHORIZATION: Final = "authorization"
TRACEPARENT: Final = "traceparent"
_TOKEN: Final = re.compile(r"[!-~]{1,1024}")


def tls_credentials(
    ca: Path | str | None = None, certificate: Path | str | None = None, key: Path | str | None = None
) -> grpc.ChannelCredentials:
    """Return the credentials of a TLS channel, from PEM files.

    ca                authorities for the server's certificate; None takes gRPC's list of public authorities
    certificate, key  for servers that require a client certificate (mTLS)

    Raises OSError if a file cannot be read, and ValueError if only one of certificate and key is given.
    """
    if (certificate is None) != (key is None):
        raise ValueError("expected both a certificate and its key, got only one of them")
    return grpc.ssl_channel_credentials(
        *(None if path is None else Path(path).read_bytes() for path in (ca, key, certificate))
    )


def bearer(token: str | None) -> Metadata:
    """Return the metadata with a token. Raises ValueError for an invalid token, without the token in the message."""
    if token is None:
        return ()
    if not _TOKEN.fullmatch(token):
        raise ValueError("expected a token of 1 to 1,024 printable ASCII characters without spaces")
    return ((AUTHORIZATION, f"Bearer {token}"),)


def with_trace(metadata: Metadata) -> Metadata:
    """Return the metadata with the W3C trace context of the current span, if there is one.

    Without OpenTelemetry, this costs one dictionary lookup.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return metadata
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return metadata
    return (*metadata, (TRACEPARENT, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"))
