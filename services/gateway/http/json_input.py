"""JSON from callers: bounded before it is read, because a byte of JSON can become 30 bytes of Python objects.

Facts: orjson refuses lone surrogates, NaN, numbers beyond a double, and bytes that are not UTF-8. It holds the
interpreter's lock for all of its work, so a thread does not help: the bound on values keeps that time short.
"""

from typing import Any, Final

import numpy as np
import orjson

MAX_DEPTH: Final = 32
# What a value is charged with: a dict of one key takes 230 bytes and counts as three.
_VALUE_BYTES: Final = 80
_CHUNK_BYTES: Final = 2**20
_QUOTE, _COMMA, _COLON = b'",:'
# With this bit set, `[` equals `{` and `]` equals `}`.
_BRACE_BIT: Final = np.uint8(0x20)
_OPEN, _CLOSE = b"{}"


class JsonError(ValueError):
    """JSON that is not taken; the message says what was expected and given."""


def parse(text: bytes | bytearray) -> Any:
    """Return the value. Raises JsonError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # Its `doc` holds the whole text again.
        raise JsonError(f"expected JSON: {error}") from None


def memory_bytes(text: bytes | bytearray, *, max_values: int) -> int:
    """Return about how many bytes the value of a text takes. Raises JsonError for too many values or levels."""
    values = _count_values(text, max_values)
    return values * _VALUE_BYTES + len(text) * _bytes_per_character(text)


def _count_values(text: bytes | bytearray, max_values: int) -> int:
    """The values and keys of a text; those that could be some, when they are few."""
    opened = text.count(b"[") + text.count(b"{")
    most = opened + text.count(b",") + text.count(b":")
    if opened <= MAX_DEPTH and most <= max_values:
        return most
    values, depth = structure(text, max_values=max_values)
    if depth > MAX_DEPTH:
        raise JsonError(f"expected JSON of at most {MAX_DEPTH} levels, got more")
    if values > max_values:
        raise JsonError(f"expected JSON of at most {max_values:,} values and keys, got more")
    return values


def structure(text: bytes | bytearray, *, max_values: int) -> tuple[int, int]:
    """Return how many values and keys a text has, and its deepest level; less of both where it is no JSON.

    Counts brackets, commas and colons outside of strings. Stops when there are more than `max_values` or too deep ones.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    raw = np.frombuffer(text, np.uint8)
    values = depth = deepest = 0
    inside = np.uint8(0)
    for start in range(0, len(raw), _CHUNK_BYTES):
        chunk = raw[start : start + _CHUNK_BYTES]
        parity = np.bitwise_xor.accumulate((chunk == _QUOTE).view(np.uint8)) ^ inside
        inside = parity[-1]
        outside = parity == 0
        braces = chunk | _BRACE_BIT
        opened, closed = (braces == _OPEN) & outside, (braces == _CLOSE) & outside
        separators = ((chunk == _COMMA) | (chunk == _COLON)) & outside
        values += int(np.count_nonzero(opened) + np.count_nonzero(separators))
        levels = depth + np.cumsum(opened.view(np.int8) - closed.view(np.int8), dtype=np.int32)
        depth, deepest = int(levels[-1]), max(deepest, int(levels.max()))
        if values > max_values or deepest > MAX_DEPTH:
            break
    return values, deepest


def _bytes_per_character(text: bytes | bytearray) -> int:
    """Bytes a character may take: Python stores a string by its widest one."""
    return 1 if text.isascii() and b"\\u" not in text else 4
