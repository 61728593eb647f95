"""HTTP/1.1 requests as bytes: stalled, slow, or with unread answers."""

import socket
from collections import Counter
from collections.abc import Iterable
from typing import Final

_TIMEOUT_S: Final = 30.0


def connect(address: str, *, receive_buffer: int = 0) -> socket.socket:
    """Open a connection; `receive_buffer` bytes of an answer are taken without being read, 0 for the usual."""
    host, _, port = address.rpartition(":")
    connection = socket.socket()
    connection.settimeout(_TIMEOUT_S)
    if receive_buffer:
        # Set before connecting, because the window is negotiated then.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((host, int(port)))
    return connection


def head(
    address: str, path: str, length: int, token: str, content_type: str = "application/json", method: str = "POST"
) -> bytes:
    """Return the request line and headers of a request with a body of `length` bytes."""
    lines = (
        f"{method} {path} HTTP/1.1",
        f"host: {address}",
        f"authorization: Bearer {token}",
        f"content-type: {content_type}",
        f"content-length: {length}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def try_send(connection: socket.socket, data: bytes) -> bool:
    """Send all. Return False when the server does not take it, because it has answered or closed."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def status(connection: socket.socket, timeout_s: float = _TIMEOUT_S) -> str:
    """Return the HTTP status that came or comes in time; `open` for none, `closed` for an end without one."""
    connection.settimeout(timeout_s)
    try:
        line = connection.recv(12)
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"
    return line[9:12].decode(errors="replace") if line.startswith(b"HTTP/") else "closed"


def statuses(connections: Iterable[socket.socket], timeout_s: float = _TIMEOUT_S) -> Counter[str]:
    """Return how often each status came."""
    return Counter(status(connection, timeout_s) for connection in connections)


def close(connections: Iterable[socket.socket]) -> None:
    """Close connections."""
    for connection in connections:
        connection.close()
