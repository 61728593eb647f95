"""The metrics page, over HTTP, or HTTPS with the server's certificate."""

import ssl
from typing import Any

from prometheus_client import start_http_server

from services.rpc.auth.tls import Certificates, Files
from services.rpc.settings import ServerSettings


def serve_metrics(settings: ServerSettings) -> str:
    """Serve the metrics until the process ends, and return the address with the port that was bound.

    Raises OSError if the address cannot be bound, TlsError if the certificate is invalid.
    """
    host, _, port = settings.metrics_listen.rpartition(":")
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        server, _ = start_http_server(int(port), host)
        return f"{host}:{server.server_port}"
    certificates = Certificates("metrics", Files(certificate, key, None))
    server, _ = start_http_server(int(port), host, certfile=str(certificate), keyfile=str(key))
    _follow(server.socket, certificates)
    return f"{host}:{server.server_port}"


def _follow(listening: Any, certificates: Certificates) -> None:
    """Reload a changed certificate at the next handshake.

    Fact: OpenSSL calls this callback also for callers that send no server name.
    """
    current: ssl.SSLContext = listening.context

    def handshake(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current
        if certificates.refresh():
            current = certificates.http_context()
        connection.context = current

    current.sni_callback = handshake
