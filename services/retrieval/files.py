"""The names in a data folder, and durable and verified files."""

import os
import zlib
from pathlib import Path
from typing import Final

DATABASE: Final = "retrieval.sqlite3"
SEGMENTS: Final = "segments"
LOCK: Final = "LOCK"
FORMAT_VERSION: Final = 3
"""Format of the database: the number of its migrations."""

_CHUNK_BYTES: Final = 1 << 20


def sync(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def crc32(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
