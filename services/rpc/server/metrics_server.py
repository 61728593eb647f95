"""The page of metrics: HTTP, or HTTPS with the server's certificate."""

import ssl
from typing import Any

from prometheus_client import start_http_server

from services.rpc.auth.tls import Certificates, Files
from services.rpc.settings import ServerSettings


def serve_metrics(settings: ServerSettings) -> str:
    """Serve the metrics until the process ends; the address, with the port that was taken.

    Raises OSError when the address is taken or not ours, TlsError when the certificate is wrong.
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
    """Look at the files at every handshake. Fact: OpenSSL calls this back for callers that name no server too."""
    current: ssl.SSLContext = listening.context

    def handshake(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current
        if certificates.refresh():
            current = certificates.http_context()
        connection.context = current

    current.sni_callback = handshake
