"""HTTP/1.1 connections with limits on the time and size of heads, and on the time a caller takes to read its answer.

Facts: uvicorn limits neither the time nor the size of a request's head; bodies are limited where they are read. An
error in a callback of the parser ends the parsing, and uvicorn answers it by `send_400_response`. A transport that is
closed waits for its caller to read all that was written, without limit.
"""

import asyncio
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

# What a header has beside its name and its value: a colon, a space and the end of the line.
_LINE_BYTES: Final = 4


class _Refused(Exception):
    """A request that is parsed no further."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits on the head of each request and on the time its answer waits to be read."""

    head_timeout_s: ClassVar[float]
    max_head_bytes: ClassVar[int]
    write_timeout_s: ClassVar[float]
    _write_timer: asyncio.TimerHandle | None = None
    _is_refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller is there: its first head begins."""
        super().connection_made(transport)
        self._gone = asyncio.Event()
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone."""
        self._end_head()
        self._end_write()
        self._gone.set()
        super().connection_lost(exc)
        # uvicorn leaves this timer running after a reset, and with it everything that the connection holds.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        # What is still a head after this much is too large; one that came whole is weighed when it is complete.
        if self._head_timer is not None and self._head_bytes > self.max_head_bytes:
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """The first byte of a request came."""
        super().on_message_begin()
        self.scope["state"] |= {"abort": self.transport.abort, "gone": self._gone}
        if self._head_timer is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        """The head is whole. Raises _Refused for one that is too large, which ends the parsing."""
        self._end_head()
        size = len(self.url) + sum(len(name) + len(value) + _LINE_BYTES for name, value in self.headers)
        if size > self.max_head_bytes:
            self._refuse(_TOO_LARGE)
            raise _Refused
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Say that the request is no HTTP, unless the connection has been refused already."""
        self._end_head()
        if not self._is_refused:
            self._is_refused = True
            super().send_400_response(msg)
            self._close_soon()

    def pause_writing(self) -> None:
        """The caller reads slower than it is answered."""
        super().pause_writing()
        self._begin_write()

    def resume_writing(self) -> None:
        """The caller has read what was waiting."""
        self._end_write()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """An answer was handed over; when it was the last one, it must be read in time."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, without waiting for a caller that has not read its answer."""
        super().timeout_keep_alive_handler()
        self._close_soon()

    def _close_soon(self) -> None:
        """End a connection that is closing even when its caller does not read what is left."""
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
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, _TOO_SLOW)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._end_head()
        self._is_refused = True
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
            self._close_soon()


def limited(*, head_timeout_s: float, max_head_bytes: int, write_timeout_s: float) -> type[Connection]:
    """Return the connections of a server with these limits."""
    limits = {"head_timeout_s": head_timeout_s, "max_head_bytes": max_head_bytes, "write_timeout_s": write_timeout_s}
    return type("Limited", (Connection,), limits)
