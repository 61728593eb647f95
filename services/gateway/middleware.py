"""ASGI middleware around every request: limits, rejection of cross-site requests, disconnects, metrics and logs.

Rule: the middleware reads the whole body of a request before the route runs. Streams of documents are the exception:
their route reads them part by part.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from sluice.errors import SluiceError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.access import Access
from services.gateway.http.errors import ClientDisconnected, HttpError, error_response
from services.gateway.http.memory_budget import MemoryBudget, MemoryShare
from services.gateway.http.trimming import trim_memory
from services.gateway.metrics import HTTP_HANDLED, HTTP_HANDLING
from services.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

STREAMED: Final = ("POST", "/documents")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Paths that need no permission: probes, and the static files of the console.
_OPEN: Final = ("/health", "/console/")
# A response is passed to the connection in parts of this size. The rest waits here, where it is counted.
_PART_BYTES: Final = 65_536
# Memory that the connection of a stream of documents may take: uvicorn's buffer, and one read of the socket.
_STREAM_BYTES: Final = 5 * 65_536
# Longest time that the rest of a rejected body is read and discarded, in seconds.
_LINGER_S: Final = 2.0
# Most digits of a content-length that are converted to a number.
_LENGTH_DIGITS: Final = 18
# Headers that may occur only once: they determine the host, the caller and the body of a request.
_ONCE: Final = ("host", "authorization", "content-type", "content-length", "origin")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class GatewayMiddleware:
    """The application with limits, permissions and metrics."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, access: Access) -> None:
        self._app = app
        self._access = access
        self._settings = settings
        self._bodies = MemoryBudget(settings.max_held_bytes, "request bodies")
        self._responses = MemoryBudget(settings.max_answer_bytes, "unread responses")
        is_local = settings.listen.rpartition(":")[0] in _LOOPBACK
        self._hosts = frozenset(settings.hosts or (_LOOPBACK if is_local else ()))

    async def watch(self, every_s: float) -> None:
        """Return freed memory to the operating system, until cancelled."""
        await trim_memory((self._bodies, self._responses))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http":
            raise AssertionError(f"only HTTP is served, got {scope['type']}")
        started = perf_counter()
        with self._responses.share(scope["state"]["abort"]) as share:
            response = ResponseWriter(receive, send, share)
            scope["state"]["response_share"] = share
            try:
                await self._respond(scope, receive, response.send)
            except ResponseTooLarge as error:
                await error_response(error.reason, scope["path"])(scope, receive, response.send)
            except SluiceError as error:
                await error_response(error, scope["path"])(scope, receive, response.send)
            except ClientDisconnected:
                pass
            finally:
                _record(scope, response.status, perf_counter() - started)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        check_head(scope, headers)
        self._check_host(headers)
        if scope["method"] not in _SAFE:
            check_same_origin(headers)
        if not scope["path"].startswith(_OPEN) and scope["path"] != "/":
            scope["state"]["rights"] = self._access.admit(headers)
        with self._bodies.share() as share:
            scope["state"]["body_share"] = share
            if (scope["method"], scope["path"]) == STREAMED:
                share.add(_STREAM_BYTES)
                stream = _BodyStream(receive, self._settings.body_timeout_s)
                await _run_until_disconnect(self._app(scope, stream.receive, send), scope["state"]["gone"].wait())
                return
            body = scope["state"]["body"] = bytearray()
            try:
                await self._read(body, headers, receive, share)
                await _run_until_disconnect(self._app(scope, receive, send), receive())
            finally:
                # An idle connection references its last scope, and an error references the frames of its traceback.
                body.clear()

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Raise HttpError if the Host header is not an allowed name."""
        if not self._hosts:
            return
        given = headers.get("host", "")
        name = given if given.endswith("]") else given.rpartition(":")[0] or given
        if name not in self._hosts:
            raise HttpError(421, f"host: expected {', '.join(sorted(self._hosts))}, got {name!r:.80}; see --hosts")

    async def _read(self, body: bytearray, headers: Mapping[str, str], receive: Receive, share: MemoryShare) -> None:
        """Append the whole body to `body`.

        Raises HttpError if it is too large or too slow, and Unavailable if there is no memory for it.
        """
        most = self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if len(length) > _LENGTH_DIGITS or int(length) > most:
            raise HttpError(413, f"expected a body of at most {most:,} bytes, got {length[:_LENGTH_DIGITS]}")
        more = True
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while more:
                    message = await receive()
                    more = _expect_part(message).get("more_body", False)
                    body += message.get("body", b"")
                    share.resize(len(body))
                    if len(body) > most:
                        raise HttpError(413, f"expected a body of at most {most:,} bytes, got more")
        except TimeoutError:
            raise HttpError(408, f"expected the body within {self._settings.body_timeout_s:g} s") from None


class _BodyStream:
    """A body that its route reads part by part, with a timeout for each part."""

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s

    async def receive(self) -> Message:
        """Return the next part. Raises HttpError if it does not arrive in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise HttpError(408, f"expected another part of the body within {self._timeout_s:g} s") from None
        return message


class ResponseTooLarge(Exception):
    """A response that there is no memory for. Not a SluiceError, because the exception handlers have already run."""

    def __init__(self, reason: SluiceError) -> None:
        super().__init__(reason.message)
        self.reason = reason


class ResponseWriter:
    """The sender of a response: part by part, as fast as the client reads."""

    def __init__(self, receive: Receive, send: Send, share: MemoryShare) -> None:
        self.status = 499
        self._receive = receive
        self._send = send
        self._is_last = False
        self._share = share
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Send an ASGI message. Raises ResponseTooLarge before anything is sent."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = message.get("body", b"")
        if self._start:
            self._reserve(len(body))
            self.status, start, self._start = self._start["status"], self._start, None
            self._is_last = (b"connection", b"close") in start["headers"]
            await self._send(start)
        for at in range(0, max(1, len(body)), _PART_BYTES):
            more = message.get("more_body", False) or at + _PART_BYTES < len(body) or self._is_last
            self._share.waits_since = monotonic()
            await self._send({"type": message["type"], "body": body[at : at + _PART_BYTES], "more_body": more})
        self._share.waits_since = None
        if self._is_last and not message.get("more_body", False):
            await self._linger()
            await self._send({"type": message["type"], "body": b"", "more_body": False})

    async def _linger(self) -> None:
        """Read and discard the rest of the request body.

        A client that is still sending when the connection closes would get a reset in place of the response.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass

    def _reserve(self, size: int) -> None:
        try:
            self._share.resize(size if size > _PART_BYTES else 0)
        except SluiceError as error:
            self._start = None
            raise ResponseTooLarge(error) from None


def check_head(scope: Scope, headers: Headers) -> None:
    """Raise HttpError for a head that other HTTP implementations could read differently (request smuggling)."""
    for name in _ONCE:
        if len(headers.getlist(name)) > 1:
            raise HttpError(400, f"{name}: expected one, got {len(headers.getlist(name))}")
    if headers.get("content-encoding", "identity") != "identity":
        raise HttpError(415, f"content-encoding: expected none, got {headers['content-encoding']!r:.40}")
    for what, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
        try:
            raw.decode("ascii")
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise HttpError(400, f"{what}: expected UTF-8, percent-encoded, got something else") from None


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Raise HttpError for a request that a browser sends for a page of another site.

    Clients other than browsers send neither `sec-fetch-site` nor `origin`.
    """
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    if site not in ("same-origin", "none") or (origin and _host_and_port(origin) != headers.get("host")):
        raise HttpError(
            403, "expected a request from the gateway's own pages or from outside a page, got one from another site"
        )


def _host_and_port(origin: str) -> str | None:
    """Return the host and port of an origin, or None if it is not a URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


async def _run_until_disconnect(responding: Awaitable[None], disconnecting: Awaitable[Any]) -> None:
    """Run `responding`, and cancel it if the client disconnects. Raises ClientDisconnected."""
    response, disconnect = asyncio.ensure_future(responding), asyncio.ensure_future(disconnecting)
    try:
        await asyncio.wait((response, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not response.done():
            raise ClientDisconnected
        await response
    finally:
        disconnect.cancel()
        if not response.done():
            response.cancel()
            await asyncio.wait((response,))


def _expect_part(message: Message) -> Message:
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message


def _record(scope: Scope, status: int, duration_s: float) -> None:
    """Count and time a request, and log it if it failed."""
    route: Any = scope.get("route")
    path = getattr(route, "path", "none")
    HTTP_HANDLED.labels(path, str(status)).inc()
    HTTP_HANDLING.labels(path).observe(duration_s)
    if status >= 400:
        fields = {"route": path, "status": status, "duration_ms": round(1000 * duration_s, 1)}
        logger.info("request failed", extra=fields)
