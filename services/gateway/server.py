"""The gateway as a server: bind, serve, drain.

state      /health   requests
ready      200       accepted
draining   503       accepted for drain_delay_s. After that, new connections are rejected, and requests in progress have
                     drain_grace_s to finish
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.http.connection import limited_connection
from services.gateway.middleware import GatewayMiddleware
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.stubs import Upstream
from services.rpc.auth.tls import Certificates
from services.rpc.observability.metrics import READY
from services.rpc.server.lifecycle import Running, StartFailed, open_security


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers; `run_process` handles signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[Running]:
    """Serve until the block ends, then drain.

    Raises StartFailed if the address cannot be bound, or if the certificates or tokens are invalid.
    """
    security, upstream = open_security(settings), Upstream(settings)
    bound = _bind(settings.listen)
    app = create_app(settings, upstream)
    access = Access(settings, security.authorizer, upstream.search.ListPipelines.rpc)
    middleware = GatewayMiddleware(app, settings, access)
    server = _Server(_configuration(settings, middleware, security.certificates))
    task = asyncio.create_task(server.serve([bound]))
    watching = [asyncio.create_task(one.watch(settings.reload_s)) for one in (security, upstream, access, middleware)]
    host = settings.listen.rpartition(":")[0]
    try:
        READY.set(1)
        app.state.is_ready = True
        yield Running(f"{host}:{bound.getsockname()[1]}")
    finally:
        READY.set(0)
        app.state.is_ready = False
        await asyncio.sleep(settings.drain_delay_s)
        server.should_exit = True
        await task
        for one in watching:
            one.cancel()
        await upstream.close()


def _configuration(
    settings: GatewaySettings, app: GatewayMiddleware, certificates: Certificates | None
) -> uvicorn.Config:
    tls = _tls(settings, certificates) if certificates else None
    return uvicorn.Config(
        app,
        http=limited_connection(
            head_timeout_s=settings.head_timeout_s,
            max_head_bytes=settings.max_head_bytes,
            write_timeout_s=settings.write_timeout_s,
        ),
        ssl_context_factory=(lambda *_: tls) if tls else None,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=int(settings.keep_alive_s),
        timeout_graceful_shutdown=max(1, int(settings.drain_grace_s)),
    )


def _tls(settings: GatewaySettings, certificates: Certificates) -> ssl.SSLContext:
    """Return the TLS context: the server's certificate, and the authorities of client certificates if there are any.

    When the certificate files change, new connections use the new certificate.
    """
    context = certificates.http_context()
    if settings.tls_client_ca:
        context.load_verify_locations(settings.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    certificates.on_change.append(
        lambda: context.load_cert_chain(str(settings.tls_certificate), settings.tls_key, password="")
    )
    return context


def _bind(listen: str) -> socket.socket:
    """Return a socket that listens on the address. Raises StartFailed if it cannot be bound."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StartFailed(f"cannot listen on {listen}: {error.strerror}; choose another --listen") from error
