"""What surrounds every request: limits, cross-site refusals, the caller that goes away, metrics, a log line.

Rule: an ASGI application around the routes. The body of a request is read here, whole, before a route sees it; only
streams of documents are read by their route, part by part.
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
from services.gateway.errors import ClientGone, Refused, error_response
from services.gateway.held import Budget, Share
from services.gateway.settings import GatewaySettings
from services.gateway.trim import trim_memory
from services.rpc.observability.metrics import HTTP_HANDLED, HTTP_HANDLING

logger = logging.getLogger(__name__)

STREAMED: Final = ("POST", "/documents")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Probes, and the files of the console: they tell nothing.
_OPEN: Final = ("/health", "/console/")
# An answer goes to the connection in parts of this size, so that one which is not read waits here, counted.
_PART_BYTES: Final = 65_536
# What the connection itself may hold of a stream of documents: uvicorn's buffer, and one read of the socket.
_STREAM_BYTES: Final = 5 * 65_536
# Longest time that the rest of a refused body is read and dropped, in seconds.
_LINGER_S: Final = 2.0
# Digits of a content-length that is still looked at.
_LENGTH_DIGITS: Final = 18
# Headers that determine the host, the caller and the body of a request.
_ONCE: Final = ("host", "authorization", "content-type", "content-length", "origin")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """The application, guarded."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, access: Access) -> None:
        self._app = app
        self._access = access
        self._settings = settings
        self._bodies = Budget(settings.max_held_bytes, "bodies of requests")
        self._answers = Budget(settings.max_answer_bytes, "answers that are not read yet")
        is_local = settings.listen.rpartition(":")[0] in _LOOPBACK
        self._hosts = frozenset(settings.hosts or (_LOOPBACK if is_local else ()))

    async def watch(self, every_s: float) -> None:
        """Give freed memory back to the system, until cancelled."""
        await trim_memory((self._bodies, self._answers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise AssertionError(f"only HTTP is served, got {scope['type']}")
        started = perf_counter()
        with self._answers.share(scope["state"]["abort"]) as share:
            answer = Answer(receive, send, share)
            scope["state"]["answer"] = share
            try:
                await self._answer(scope, receive, answer.send)
            except AnswerTooLarge as error:
                await error_response(error.reason, scope["path"])(scope, receive, answer.send)
            except SluiceError as error:
                await error_response(error, scope["path"])(scope, receive, answer.send)
            except ClientGone:
                pass
            finally:
                _note(scope, answer.status, perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        check_head(scope, headers)
        self._check_host(headers)
        if scope["method"] not in _SAFE:
            check_same_origin(headers)
        if not scope["path"].startswith(_OPEN) and scope["path"] != "/":
            scope["state"]["rights"] = self._access.admit(headers)
        with self._bodies.share() as share:
            scope["state"]["held"] = share
            if (scope["method"], scope["path"]) == STREAMED:
                share.add(_STREAM_BYTES)
                stream = _Stream(receive, self._settings.body_timeout_s)
                await _until_gone(self._app(scope, stream.receive, send), scope["state"]["gone"].wait())
                return
            body = scope["state"]["body"] = bytearray()
            try:
                await self._read(body, headers, receive, share)
                await _until_gone(self._app(scope, receive, send), receive())
            finally:
                # An idle connection keeps its last scope, and an error the frames that it was raised through.
                body.clear()

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Raise Refused for a name that is not ours."""
        if not self._hosts:
            return
        given = headers.get("host", "")
        name = given if given.endswith("]") else given.rpartition(":")[0] or given
        if name not in self._hosts:
            raise Refused(421, f"host: expected {', '.join(sorted(self._hosts))}, got {name!r:.80}: see --hosts")

    async def _read(self, body: bytearray, headers: Mapping[str, str], receive: Receive, share: Share) -> None:
        """Add the whole body to `body`. Raise Refused for too large or too slow, Unavailable without room."""
        most = self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if len(length) > _LENGTH_DIGITS or int(length) > most:
            raise Refused(413, f"expected a body of at most {most:,} bytes, got {length[:_LENGTH_DIGITS]}")
        more = True
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while more:
                    message = await receive()
                    more = _expect_part(message).get("more_body", False)
                    body += message.get("body", b"")
                    share.resize(len(body))
                    if len(body) > most:
                        raise Refused(413, f"expected a body of at most {most:,} bytes, got more")
        except TimeoutError:
            raise Refused(408, f"expected the body within {self._settings.body_timeout_s:g} s") from None


class _Stream:
    """A body that its route reads: each part must come in time."""

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s

    async def receive(self) -> Message:
        """The next part. Raises Refused when it is too late."""
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, f"expected another part of the body within {self._timeout_s:g} s") from None
        return message


class AnswerTooLarge(Exception):
    """An answer that there is no room for. Not a SluiceError: the routes' handlers come too late for it."""

    def __init__(self, reason: SluiceError) -> None:
        super().__init__(reason.message)
        self.reason = reason


class Answer:
    """An answer, sent part by part, as fast as its caller reads."""

    def __init__(self, receive: Receive, send: Send, share: Share) -> None:
        self.status = 499
        self._receive = receive
        self._send = send
        self._is_last = False
        self._share = share
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Send a message of ASGI. Raises AnswerTooLarge, before anything was sent."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = message.get("body", b"")
        if self._start:
            self._hold(len(body))
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
        """Drop what is left of the request: a caller whose bytes meet a closed connection never sees the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass

    def _hold(self, size: int) -> None:
        try:
            self._share.resize(size if size > _PART_BYTES else 0)
        except SluiceError as error:
            self._start = None
            raise AnswerTooLarge(error) from None


def check_head(scope: Scope, headers: Headers) -> None:
    """Raise Refused for a head that would be read in one way here and in another elsewhere."""
    for name in _ONCE:
        if len(headers.getlist(name)) > 1:
            raise Refused(400, f"{name}: expected one, got {len(headers.getlist(name))}")
    if headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, f"content-encoding: expected none, got {headers['content-encoding']!r:.40}")
    for what, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
        try:
            raw.decode("ascii")
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise Refused(400, f"{what}: expected UTF-8, percent-encoded, got something else") from None


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Raise Refused for what a browser sends for a page of another site. Other clients send neither header."""
    site = headers.get("sec-fetch-site", "same-origin")
    origin = headers.get("origin")
    if site not in ("same-origin", "none") or (origin and _place(origin) != headers.get("host")):
        raise Refused(403, "expected a request from the gateway's own pages or from no page, got one from another site")


def _place(origin: str) -> str | None:
    """The host and port of an origin; None when it is no URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


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
