"""HTTP/1.1 connections that limit the time and size of request heads, and the time to read a response.

Facts: uvicorn limits neither the time nor the size of a request head. `GatewayMiddleware` limits bodies. An error in a
callback of the parser ends the parsing, and uvicorn then calls `send_400_response`. A transport that is closed waits
without limit until the client has read all that was written.
"""

import asyncio
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

# Bytes of a header line beside its name and value: a colon, a space and the end of the line.
_LINE_BYTES: Final = 4


class _ParsingStopped(Exception):
    """Raised in a callback of the parser to stop parsing."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on the head of each request and on the time to read a response."""

    head_timeout_s: ClassVar[float]
    max_head_bytes: ClassVar[int]
    write_timeout_s: ClassVar[float]
    _write_timer: asyncio.TimerHandle | None = None
    _is_rejected = False
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._gone = asyncio.Event()
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and signal the disconnect."""
        self._end_head()
        self._end_write()
        self._gone.set()
        super().connection_lost(exc)
        # After a reset, uvicorn keeps this timer, which keeps the connection in memory.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and reject a head that is too large."""
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        # A head that is complete by now has been checked by `on_headers_complete`.
        if self._head_timer is not None and self._head_bytes > self.max_head_bytes:
            self._reject(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Start the timer of a request's head."""
        super().on_message_begin()
        self.scope["state"] |= {"abort": self.transport.abort, "gone": self._gone}
        if self._head_timer is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        """Check the size of the complete head. Raises _ParsingStopped if it is too large."""
        self._end_head()
        size = len(self.url) + sum(len(name) + len(value) + _LINE_BYTES for name, value in self.headers)
        if size > self.max_head_bytes:
            self._reject(_TOO_LARGE)
            raise _ParsingStopped
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Respond to a request that is not valid HTTP, unless the connection has been rejected already."""
        self._end_head()
        if not self._is_rejected:
            self._is_rejected = True
            super().send_400_response(msg)
            self._close_soon()

    def pause_writing(self) -> None:
        """Start the write timer: the client reads more slowly than the response is written."""
        super().pause_writing()
        self._begin_write()

    def resume_writing(self) -> None:
        """Stop the write timer: the client has read the buffered bytes."""
        self._end_write()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Limit the time to read the last response of the connection."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the client has not read its response."""
        super().timeout_keep_alive_handler()
        self._close_soon()

    def _close_soon(self) -> None:
        """Abort a closing connection if the client does not read the rest in time."""
        if self.transport.get_write_buffer_size():
            self._begin_write()

    def _begin_write(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def _end_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _begin_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._reject, _TOO_SLOW)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _reject(self, response: bytes) -> None:
        self._end_head()
        self._is_rejected = True
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()
            self._close_soon()


def limited_connection(*, head_timeout_s: float, max_head_bytes: int, write_timeout_s: float) -> type[Connection]:
    """Return a connection class with these limits, for `uvicorn.Config`."""
    limits = {"head_timeout_s": head_timeout_s, "max_head_bytes": max_head_bytes, "write_timeout_s": write_timeout_s}
    return type("LimitedConnection", (Connection,), limits)
