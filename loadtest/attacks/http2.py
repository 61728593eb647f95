"""gRPC calls frame by frame: bytes that no gRPC client would send, and answers that nobody reads.

Only as much of HTTP/2 (RFC 9113) as one call on one connection needs. Header blocks are sent without compression. Of
those received only `grpc-status` is read: gRPC sends it as a literal the first time a connection has it.
"""

import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW: Final = 4
_LARGEST_FRAME: Final = 16_384
_STREAM: Final = 1
_STATUS: Final = re.compile(rb"grpc-status.(\d+)", re.DOTALL)
_CODES: Final[dict[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass
class Call:
    """One call on a connection of its own."""

    socket: socket.socket
    status: str = ""
    """The name of the code, once it came; `RESET` or `CLOSED` when the connection ended without one."""
    _connection_window: int = 65_535
    _stream_window: int = 65_535

    @classmethod
    def begin(
        cls, address: str, method: str, headers: Sequence[tuple[str, str]] = (), *, window: int = 65_535,
        timeout_s: float = 30.0,
    ) -> "Call":  # fmt: skip
        """Connect, and send the headers. `window` is how many bytes of the answer the server may send unread."""
        host, _, port = address.rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=timeout_s)
        call = cls(connection)
        settings = struct.pack(">HI", _INITIAL_WINDOW, window)
        sent = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", address)]
        sent += [("content-type", "application/grpc"), ("te", "trailers"), *headers]
        block = b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in sent)
        connection.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        )
        return call

    def send(self, message: bytes, *, compressed: bool = False) -> None:
        """Send the only message. Stops early when the server has answered already."""
        data = struct.pack(">BI", compressed, len(message)) + message
        start = 0
        while start < len(data) and not self.status:
            room = min(_LARGEST_FRAME, self._connection_window, self._stream_window)
            if room <= 0:
                self._read()
                continue
            part = data[start : start + room]
            start += len(part)
            self._connection_window -= len(part)
            self._stream_window -= len(part)
            self._write(_frame(_DATA, _END_STREAM if start == len(data) else 0, _STREAM, part))

    def finish(self) -> str:
        """Read until the status. Return the name of the code."""
        while not self.status:
            self._read()
        return self.status

    def _write(self, frame: bytes) -> None:
        try:
            self.socket.sendall(frame)
        except OSError:
            self.status = self.status or "CLOSED"

    def _read(self) -> None:
        """Read a frame, and note what it says."""
        try:
            head = _exactly(self.socket, 9)
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            payload = _exactly(self.socket, size)
        except TimeoutError:
            self.status = "TIMEOUT"
            return
        except OSError:
            self.status = "CLOSED"
            return
        if kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            self._widen(int.from_bytes(head[5:], "big"), int.from_bytes(payload, "big"))
        elif kind == _HEADERS and (found := _STATUS.search(payload)):
            self.status = _CODES.get(int(found[1]), found[1].decode())
        elif kind in (_RST, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self.status = "RESET"

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW:
                self._stream_window += value - 65_535

    def _widen(self, stream: int, more: int) -> None:
        if stream:
            self._stream_window += more
        else:
            self._connection_window += more

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(text: str) -> bytes:
    """Encode a string in HPACK without Huffman coding (RFC 7541, 5.2)."""
    data = text.encode()
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """Encode an integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if value < 127:
        return bytes((value,))
    rest, out = value - 127, bytearray((127,))
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    out.append(rest)
    return bytes(out)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return bytes(data)
