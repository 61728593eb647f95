"""Random HTTP requests from an OpenAPI description: valid ones, most of them mutated."""

import json
import socket
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from random import Random
from typing import Any, Final
from urllib.parse import quote

JsonSchema = Mapping[str, Any]

TIMEOUT_S: Final = 120.0
WORDS: Final = ("ore", "is", "washed", "a queue", "docs", "all-MiniLM", "tiny", "")
# Texts that broke something somewhere: as they stand in JSON, between quotes.
ODD_TEXTS: Final = (
    "\\ud800",
    "\\udfff\\ud800",
    "\\u0000",
    "a" * 5000,
    '\\\\\\"',
    "\U0001f600" * 300,
    "\u202e\u0301\ufeff",
    "/../../etc/passwd",
    "' or 1=1 --",
    "%00%ff",
    "{{7*7}}",
)
ODD_VALUES: Final = (
    "null",
    "true",
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "1e400",
    "9" * 400,
    "9223372036854775808",
    "4294967296",
    "-0.0",
    "0.1",
    "[]",
    "{}",
    "[[]]",
    '[{"a": [null]}]',
    "[" * 60 + "]" * 60,
    "[" * 3000,
    '{"a":' * 200 + "1" + "}" * 200,
    "[" + "1," * 5000 + "1]",
    '"',
    "tru",
    "",
)
FILTERS: Final = (
    "year >= 2020",
    "kind == 'function' and (year < 3 or not lang in ('en', 'de'))",
    "(" * 200,
    "not " * 300 + "a == 1",
    "a == timestamp('0001-01-01T00:00:00+23:59')",
    "a == timestamp('9999-12-31T23:59:59-23:59')",
    "a in (" + "1," * 3000 + "1)",
    "a == 1e999",
    "exists(`\x00`)",
    "a ==",
)
MOMENTS: Final = (
    "2024-05-01T12:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2024-13-01",
    "",
    "x",
)
ODD_QUERIES: Final = ("%ff", "%ED%A0%80", "%00", "%", "%zz", "a&a=b", "+", "%F0%9F%98%80", "a" * 3000, "=", "&&", ";")
ODD_HEADERS: Final = (
    "origin: http://[",
    "origin: null",
    "origin: http://evil.example",
    "sec-fetch-site: cross-site",
    "authorization: Bearer a\tb",
    "authorization: Bearer \xff\xfe",
    "authorization: Bearer " + "a" * 5000,
    "authorization:",
    "x-deadline-ms: 1",
    "x-deadline-ms: -5",
    "x-deadline-ms: 99999999999999999999",
    "x-deadline-ms: \xb2",
    "traceparent: 00-" + "0" * 32 + "-" + "0" * 16 + "-00",
    "traceparent: \x01",
    "accept: text/event-stream",
    "content-encoding: gzip",
    "content-type: text/plain",
    "content-type: application/json; charset=utf-16",
    "content-type: \xe9",
    "content-type: multipart/form-data",
    "accept-encoding: \xff",
    "expect: 100-continue",
    "connection: upgrade\r\nupgrade: h2c",
    "range: bytes=5-1",
    "if-modified-since: never",
    "x-fern-language: \x7f",
)
HOSTS: Final = ("[", "[::1", "a:b:c", "", "localhost:99999999", "evil.example", "127.0.0.1:\xff", "127.0.0.1@evil")


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    parameters: tuple[JsonSchema, ...]
    body: JsonSchema | None
    definitions: JsonSchema


def described(address: str) -> list[Operation]:
    """Return every operation of a server's OpenAPI description."""
    with urllib.request.urlopen(f"http://{address}/openapi.json", timeout=TIMEOUT_S) as answer:
        description = json.load(answer)
    definitions = description["components"]["schemas"]
    return [
        Operation(method.upper(), path, tuple(one.get("parameters", ())), _schema_of(one), definitions)
        for path, methods in description["paths"].items()
        for method, one in methods.items()
    ]


def _schema_of(operation: JsonSchema) -> JsonSchema | None:
    content = operation.get("requestBody", {}).get("content", {})
    schema: JsonSchema | None = content.get("application/json", {}).get("schema")
    return {"x-documents": True} if "application/jsonl" in content else schema


def request(random: Random, operation: Operation, address: str) -> bytes:
    """Return the bytes of a request for an operation."""
    method = operation.method if random.random() < 0.95 else random.choice(("HEAD", "PUT", "PATCH", "OPTIONS", "POST"))
    body, content_type = _body(random, operation)
    host = random.choice(HOSTS) if random.random() < 0.03 else address
    lines = [f"{method} {_target(random, operation)} HTTP/1.1", f"host: {host}", f"content-type: {content_type}"]
    lines += [random.choice(ODD_HEADERS) for _ in range(random.choice((0, 0, 0, 1, 2)))]
    if method == "POST" and random.random() < 0.2:
        lines.append("transfer-encoding: chunked")
        framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(random, body)) + b"0\r\n\r\n"
    else:
        lines.append(f"content-length: {len(body)}")
        framed = body
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + framed


def _parts(random: Random, body: bytes) -> list[bytes]:
    """Split a body into one to three parts."""
    cuts = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(3)))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]


def _target(random: Random, operation: Operation) -> str:
    path, query = operation.path, []
    for one in operation.parameters:
        value = _query_value(random, one["name"])
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", value)
        elif one["in"] == "query" and random.random() < 0.7:
            query += [f"{one['name']}={value}"] * random.choice((1, 1, 1, 2))
    return path + ("?" + "&".join(query) if query else "")


def _query_value(random: Random, name: str) -> str:
    if random.random() < 0.25:
        return random.choice(ODD_QUERIES)
    known = {
        "filter": FILTERS,
        "filterable": ("year=number", "at=timestamp", "=", "a=b", "kind"),
        "create": ("true", "1", "x"),
    }
    return quote(random.choice(known.get(name, ("docs", "other", "a", "b/c"))), safe="")[:4000]


def _body(random: Random, operation: Operation) -> tuple[bytes, str]:
    """Return a body and its content type."""
    if operation.body is None:
        return b"", "application/json"
    if "x-documents" in operation.body:
        lines = [_mutated(random, _document(random)) for _ in range(random.randrange(1, 5))]
        if random.random() < 0.5:
            return "\n".join(lines).encode(errors="replace"), "application/jsonl"
        return ("[" + ",".join(lines) + "]").encode(errors="replace"), "application/json"
    text = _mutated(random, _valid(random, operation.body, operation.definitions))
    encoded = text.encode(errors="replace")
    if random.random() < 0.03:
        encoded = encoded[: random.randrange(len(encoded) + 1)] + bytes(random.randrange(256) for _ in range(4))
    return encoded, "application/json"


def _document(random: Random) -> str:
    metadata = {
        "year": random.choice((2020, 1e308, -5, 10**30, "x", None, [1, 2], [[1]])),
        "at": random.choice(MOMENTS),
        random.choice(("kind", "", "a.b", "\x00")): random.choice(WORDS),
    }
    record = {
        "id": random.choice(("a", "b", 5, 10**30, "", None)),
        "title": random.choice(WORDS),
        "text": "ore is washed",
    }
    return json.dumps(record | {"metadata": metadata} if random.random() < 0.6 else record)


def _valid(random: Random, schema: JsonSchema, definitions: JsonSchema) -> str:
    """Return JSON that mostly matches a schema."""
    if "$ref" in schema:
        return _valid(random, definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return _valid(random, random.choice(schema["anyOf"]), definitions)
    if "enum" in schema or "const" in schema:
        return json.dumps(random.choice(schema.get("enum") or [schema["const"]]))
    make = {"object": _object, "array": _array}.get(schema.get("type", ""))
    return make(random, schema, definitions) if make else json.dumps(_scalar(random, schema.get("type", "")))


def _scalar(random: Random, kind: str) -> Any:
    return {
        "integer": random.choice((0, 1, 2, 5, 32, 101, 1000, 2**31, 2**40)),
        "boolean": random.choice((True, False)),
        "null": None,
    }.get(kind, random.choice(WORDS))


def _object(random: Random, schema: JsonSchema, definitions: JsonSchema) -> str:
    needed = schema.get("required", ())
    members = [
        f"{json.dumps(name)}:{_member(random, name, one, definitions)}"
        for name, one in schema.get("properties", {}).items()
        if name in needed or random.random() < 0.4
    ]
    return "{" + ",".join(members) + "}"


def _array(random: Random, schema: JsonSchema, definitions: JsonSchema) -> str:
    count = random.randrange(4) if random.random() < 0.95 else 300
    return "[" + ",".join([_valid(random, schema.get("items", {}), definitions)] * count) + "]"


def _member(random: Random, name: str, schema: JsonSchema, definitions: JsonSchema) -> str:
    if name == "filter":
        return json.dumps(random.choice(FILTERS))
    if name == "model":
        return json.dumps(random.choice(("tiny", "tiny", "tiny", "none", "")))
    return _valid(random, schema, definitions)


def _mutated(random: Random, text: str) -> str:
    """Replace some values of the JSON with odd ones; return it unchanged half of the time."""
    while random.random() < 0.4:
        text = random.choice((_odd_text, _odd_value, _swapped))(random, text)
    return text


def _odd_text(random: Random, text: str) -> str:
    """Insert an odd text into one of its strings, a key or a value."""
    quotes = [at for at, character in enumerate(text) if character == '"']
    if not quotes:
        return text
    at = random.choice(quotes) + 1
    return text[:at] + random.choice(ODD_TEXTS) + text[at:]


def _odd_value(random: Random, text: str) -> str:
    """Replace a value with something odd."""
    places = [at for at, character in enumerate(text) if character in ":[,"]
    if not places:
        return random.choice(ODD_VALUES)
    start = random.choice(places) + 1
    ends = [at for at in range(start, len(text)) if text[at] in ",]}"]
    return text[:start] + random.choice(ODD_VALUES) + text[ends[0] if ends else len(text) :]


def _swapped(random: Random, text: str) -> str:
    """Replace one character."""
    at = random.randrange(len(text) or 1)
    return text[:at] + random.choice('{}[],:"\\0a\x00\x7f\u00e9') + text[at + 1 :]


class Wire:
    """A connection to a server that is replaced when the server closes it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._socket: socket.socket | None = None

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def status(self, sent: bytes) -> int:
        """Return the status of the answer; 0 if there is none."""
        reused = self._socket is not None
        connection = self._socket or socket.create_connection(self._address, timeout=TIMEOUT_S)
        self._socket = None
        status, keeps = _exchange(connection, sent)
        if keeps:
            self._socket = connection
        else:
            connection.close()
        # A server may end an idle connection at any time: only a fresh one owes an answer.
        return self.status(sent) if status == 0 and reused else status


def _exchange(connection: socket.socket, sent: bytes) -> tuple[int, bool]:
    """Return the status of the answer, 0 without one, and whether the connection is reusable."""
    with suppress(OSError):  # refused before all was sent: the answer may be there
        connection.sendall(sent)
    try:
        response = HTTPResponse(connection, method=sent.split(b" ", 1)[0].decode("latin-1"))
        with response:
            response.begin()
            response.read()
            return response.status, not response.will_close
    except (OSError, HTTPException, ValueError):
        return 0, False
