"""The gateway as a server: bind, serve, drain.

state      /health   requests
ready      200       answered
draining   503       answered for drain_delay_s; then no new connections, and those in flight get drain_grace_s
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from services.gateway.app import application
from services.gateway.connection import limited
from services.gateway.guard import Guard
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstream
from services.rpc.metrics import READY
from services.rpc.server import StartFailed, certificates_of_calls


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
    """Serve until the block ends, then drain.

    Raises StartFailed when the address is taken or not ours, or the certificates for calls are wrong.
    """
    _refuse_what_it_does_not_do(settings)
    certificates = certificates_of_calls(settings)
    bound = _bind(settings.listen)
    watching = asyncio.create_task(certificates.watch(settings.reload_s)) if certificates else None
    upstream = Upstream(settings, certificates)
    app = application(settings, upstream)
    server = _Server(_configuration(settings, Guard(app, settings)))
    task = asyncio.create_task(server.serve([bound]))
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
        if watching:
            watching.cancel()
        await upstream.close()


def _refuse_what_it_does_not_do(settings: GatewaySettings) -> None:
    """Raise StartFailed for settings of security that would be passed over."""
    if settings.tokens:
        raise StartFailed("the gateway passes tokens on and checks none: give --tokens to the servers behind it")
    if settings.tls_client_ca:
        raise StartFailed("the gateway serves plain HTTP: put what ends TLS in front of it, without --tls-client-ca")


def _configuration(settings: GatewaySettings, app: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=limited(head_timeout_s=settings.head_timeout_s, max_head_bytes=settings.max_head_bytes),
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


def _bind(listen: str) -> socket.socket:
    """The listening socket. Raises StartFailed when the address cannot be had."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StartFailed(f"cannot listen on {listen}: {error.strerror}; choose another --listen") from error
