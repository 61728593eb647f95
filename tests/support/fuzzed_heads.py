"""Malformed heads of HTTP/1.1 requests."""

from random import Random
from typing import Final

LINES: Final = (
    "GET / HTTP/1.1",
    "GET /health HTTP/1.1",
    "GET /health HTTP/1.0",
    "GET /health HTTP/9.9",
    "GET /health HTTP/2.0",
    "GET /health",
    "GET  /health  HTTP/1.1",
    "GET http://[/health HTTP/1.1",
    "GET http://evil.example/health HTTP/1.1",
    "GET //evil.example/health HTTP/1.1",
    "GET * HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT evil.example:443 HTTP/1.1",
    "TRACE /health HTTP/1.1",
    "BREW /coffee HTTP/1.1",
    "get /health HTTP/1.1",
    "GET health HTTP/1.1",
    "GET /h\xe9 HTTP/1.1",
    "GET /documents/%ff HTTP/1.1",
    "GET /documents/%ED%A0%80?collection=%ff HTTP/1.1",
    "GET /health?\xff HTTP/1.1",
    "GET /health#a HTTP/1.1",
    "GET /\x00 HTTP/1.1",
    "GET /" + "a" * 40_000 + " HTTP/1.1",
    "POST /embed HTTP/1.1",
    "POST /documents HTTP/1.1",
    "\x16\x03\x01\x02\x00\x01",
    "PRI * HTTP/2.0",
    "",
)
HEADERS: Final = (
    "host: a",
    "host: [",
    "host:",
    "host: a b",
    "content-length: 5",
    "content-length: -5",
    "content-length: 5, 5",
    "content-length: five",
    "content-length: 99999999999999999999999",
    "content-length: \xb2",
    "content-length: +5",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: identity",
    "no colon here",
    " leading: space",
    "na me: space",
    ": empty",
    "x: \x00",
    "x: \x01\x02",
    "x: \xff\xfe",
    "x: a\n b",
    "x: " + "a" * 40_000,
    "connection: close",
    "connection: upgrade\r\nupgrade: websocket",
    "expect: 100-continue",
    "expect: nothing",
    "authorization: Basic x",
    "origin: http://[",
)
ENDS: Final = (
    "\r\n\r\n",
    "\r\n\r\n",
    "\r\n\r\n",
    "\n\n",
    "\r\n\r\n{}",
    "\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "\r\n\r\nzz\r\n",
)


def head(random: Random, address: str) -> bytes:
    """Return a head, sometimes with a body. Its end is such that the server owes an answer."""
    if random.random() < 0.05:
        return _many(random, address)
    headers = [random.choice(HEADERS) for _ in range(random.randrange(4))]
    if random.random() < 0.8:
        headers.insert(0, f"host: {address}")
    text = "\r\n".join([random.choice(LINES), *headers]) + random.choice(ENDS)
    return text.encode("latin-1")


def _many(random: Random, address: str) -> bytes:
    """Return a complete head with more or longer headers than the server accepts."""
    count, size = random.choice(((20_000, 1), (1, 60_000), (200, 300)))
    headers = "\r\n".join(f"x{number}: {'a' * size}" for number in range(count))
    return f"GET /health HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n\r\n".encode()
