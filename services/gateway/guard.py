"""What surrounds every request: limits, cross-site refusals, the caller that goes away, metrics, a log line.

Rule: an ASGI application around the routes. The body of a request is read here, whole, before a route sees it; only
streams of documents are read by their route, part by part.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import SluiceError, Unavailable
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.access import Access
from services.gateway.errors import ClientGone, Refused, error_response
from services.gateway.settings import GatewaySettings
from services.rpc.metrics import HTTP_HANDLED, HTTP_HANDLING

logger = logging.getLogger(__name__)

STREAMED: Final = ("POST", "/documents")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Probes, and the files of the console: they tell nothing.
_OPEN: Final = ("/health", "/console/")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """The application, guarded."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, access: Access) -> None:
        self._app = app
        self._access = access
        self._settings = settings
        self._held_bytes = 0
        is_local = settings.listen.rpartition(":")[0] in _LOOPBACK
        self._hosts = frozenset(settings.hosts or (_LOOPBACK if is_local else ()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise AssertionError(f"only HTTP is served, got {scope['type']}")
        started = perf_counter()
        status = 499

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        except SluiceError as error:
            await error_response(error, scope["path"])(scope, receive, noted)
        except ClientGone:
            pass
        finally:
            _note(scope, status, perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope["method"] not in _SAFE:
            check_same_origin(headers)
        if not scope["path"].startswith(_OPEN) and scope["path"] != "/":
            scope["state"]["rights"] = self._access.admit(headers)
        if (scope["method"], scope["path"]) == STREAMED:
            stream = _Stream(receive, self._settings.body_timeout_s)
            await _until_gone(self._app(scope, stream.receive, send), stream.gone())
            return
        body = bytearray()
        try:
            await self._read(headers, receive, body)
            await _until_gone(self._app(scope, _given(bytes(body), receive), send), receive())
        finally:
            self._held_bytes -= len(body)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Raise Refused for a name that is not ours."""
        if not self._hosts:
            return
        given = headers.get("host", "")
        name = given if given.endswith("]") else given.rpartition(":")[0] or given
        if name not in self._hosts:
            raise Refused(421, f"host: expected {', '.join(sorted(self._hosts))}, got {name!r:.80}: see --hosts")

    async def _read(self, headers: Mapping[str, str], receive: Receive, body: bytearray) -> None:
        """Read the whole body into `body`. Raises Refused for too large or too slow, Unavailable without room."""
        most = self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise Refused(413, f"expected a body of at most {most:,} bytes, got {int(length):,}")
        more = True
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while more:
                    message = await receive()
                    more = _expect_part(message).get("more_body", False)
                    part = message.get("body", b"")
                    body += part
                    self._held_bytes += len(part)
                    if len(body) > most:
                        raise Refused(413, f"expected a body of at most {most:,} bytes, got more")
                    if self._held_bytes > self._settings.max_held_bytes:
                        reason = ErrorReason.ERROR_REASON_OVERLOADED
                        raise Unavailable("too many large requests at once", reason=reason, retry_after_s=1.0)
        except TimeoutError:
            raise Refused(408, f"expected the body within {self._settings.body_timeout_s:g} s") from None


class _Stream:
    """A body that its route reads: each part must come in time."""

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._ended = asyncio.Event()

    async def receive(self) -> Message:
        """The next part. Raises Refused when it is too late."""
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, f"expected another part of the body within {self._timeout_s:g} s") from None
        if not message.get("more_body", False):
            self._ended.set()
        return message

    async def gone(self) -> None:
        """Returns when the caller has gone, after the end of the body; before that its reader notices."""
        await self._ended.wait()
        await self._receive()


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Raise Refused for what a browser sends for a page of another site. Other clients send neither header."""
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    if site not in ("same-origin", "none") or (origin and urlsplit(origin).netloc != headers.get("host")):
        raise Refused(403, "expected a request from the gateway's own pages or from no page, got one from another site")


async def _until_gone(answering: Awaitable[None], going: Awaitable[Any]) -> None:
    """Answer; cancel that when the caller goes away. Raises ClientGone."""
    answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(going)
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGone
        await answer
    finally:
        gone.cancel()
        if not answer.done():
            answer.cancel()
            await asyncio.wait((answer,))


def _given(body: bytes, receive: Receive) -> Receive:
    """`receive`, for a body that is here already."""
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def given() -> Message:
        return next(parts, None) or await receive()

    return given


def _expect_part(message: Message) -> Message:
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _note(scope: Scope, status: int, duration_s: float) -> None:
    """Count and time a request, and log a failed one."""
    route: Any = scope.get("route")
    path = getattr(route, "path", "none")
    HTTP_HANDLED.labels(path, str(status)).inc()
    HTTP_HANDLING.labels(path).observe(duration_s)
    if status >= 400:
        fields = {"route": path, "status": status, "duration_ms": round(1000 * duration_s, 1)}
        logger.info("request failed", extra=fields)
