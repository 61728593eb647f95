"""JSON of requests: measured before it is parsed, because one byte of JSON can become 30 bytes of Python objects.

Facts: orjson rejects lone surrogates, NaN, numbers beyond a double, and bytes that are not UTF-8. It holds the global
interpreter lock while it parses, so a thread would not help. The limit on values keeps that time short.
"""

from typing import Any, Final

import numpy as np
import orjson

MAX_DEPTH: Final = 32
# Estimated memory of a value or key. A dict of one key takes 230 bytes and counts as three.
_VALUE_BYTES: Final = 80
_CHUNK_BYTES: Final = 2**20
_QUOTE, _COMMA, _COLON = b'",:'
# With this bit set, `[` equals `{` and `]` equals `}`.
_BRACE_BIT: Final = np.uint8(0x20)
_OPEN, _CLOSE = b"{}"


class JsonError(ValueError):
    """Invalid JSON, or JSON beyond a limit. The message says what was expected."""


def parse(text: bytes | bytearray) -> Any:
    """Return the value of a JSON text. Raises JsonError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # Without its cause, because the cause holds a copy of the whole text.
        raise JsonError(f"expected JSON: {error}") from None


def memory_bytes(text: bytes | bytearray, *, max_values: int) -> int:
    """Return an estimate of the bytes that the parsed text takes. Raises JsonError for too many values or levels."""
    values = _count_values(text, max_values)
    return values * _VALUE_BYTES + len(text) * _bytes_per_character(text)


def _count_values(text: bytes | bytearray, max_values: int) -> int:
    """Return the number of values and keys, or an upper bound if that is within the limit. Raises JsonError."""
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
    """Return the number of values and keys of a text, and its deepest level.

    Counts brackets, commas and colons outside of strings, and stops when either number is beyond its limit. For text
    that is not JSON, both numbers can be too low.
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
    """Return the most bytes that a character takes. Python stores a string with the width of its widest character."""
    return 1 if text.isascii() and b"\\u" not in text else 4
