"""The gateway as a server: bind, serve, drain.

state      /health   requests
ready      200       answered
draining   503       answered for drain_delay_s; then no new connections, and those in flight get drain_grace_s
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from services.gateway.access import Access
from services.gateway.app import application
from services.gateway.connection import limited
from services.gateway.middleware import Guard
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstream
from services.rpc.auth.tls import Certificates
from services.rpc.observability.metrics import READY
from services.rpc.server.lifecycle import StartFailed, guards_of


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are ours to handle."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class Running:
    """A gateway that serves. `address` is where, with the port that was taken."""

    address: str


@asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[Running]:
    """Serve until the block ends, then drain. Raises StartFailed when the address is taken or not ours."""
    guards, upstream = guards_of(settings), Upstream(settings)
    bound = _bind(settings.listen)
    app = application(settings, upstream)
    access = Access(settings, guards.gate, upstream.search.ListPipelines.rpc)
    guard = Guard(app, settings, access)
    server = _Server(_configuration(settings, guard, guards.certificates))
    task = asyncio.create_task(server.serve([bound]))
    watching = [asyncio.create_task(one.watch(settings.reload_s)) for one in (guards, upstream, access, guard)]
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


def _configuration(settings: GatewaySettings, app: Guard, certificates: Certificates | None) -> uvicorn.Config:
    tls = _tls(settings, certificates) if certificates else None
    return uvicorn.Config(
        app,
        http=limited(
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
    """What is shown to callers, and with authorities what they must show; new connections follow the files."""
    context = certificates.http_context()
    if settings.tls_client_ca:
        context.load_verify_locations(settings.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    certificates.on_change.append(
        lambda: context.load_cert_chain(str(settings.tls_certificate), settings.tls_key, password="")
    )
    return context


def _bind(listen: str) -> socket.socket:
    """The listening socket. Raises StartFailed when the address cannot be had."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StartFailed(f"cannot listen on {listen}: {error.strerror}; choose another --listen") from error
