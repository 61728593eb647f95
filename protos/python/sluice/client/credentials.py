"""What a client shows to a server: a certificate, a token, and the trace that the call belongs to."""

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
    """Credentials of a TLS channel, from PEM files.

    ca                authorities that the server's certificate is checked with; None: gRPC's own list of public ones
    certificate, key  shown to servers that ask for one (mTLS)

    Raises OSError when a file cannot be read, ValueError when only one of certificate and key is given.
    """
    if (certificate is None) != (key is None):
        raise ValueError("expected a certificate and its key, got one of them")
    return grpc.ssl_channel_credentials(
        *(None if path is None else Path(path).read_bytes() for path in (ca, key, certificate))
    )


def bearer(token: str | None) -> Metadata:
    """The metadata that show a token. Raises ValueError, which does not tell the token, when it cannot be one."""
    if token is None:
        return ()
    if not _TOKEN.fullmatch(token):
        raise ValueError("expected a token of 1 to 1,024 printable ASCII characters without spaces")
    return ((AUTHORIZATION, f"Bearer {token}"),)


def with_trace(metadata: Metadata) -> Metadata:
    """The metadata, and the W3C trace context of the caller's span when there is one.

    An application without OpenTelemetry has none: then this costs a look into a dictionary.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return metadata
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return metadata
    return (*metadata, (TRACEPARENT, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"))
