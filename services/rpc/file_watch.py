"""Detection of changed files, for files that are read again while a server runs.

Fact: a mounted Kubernetes volume changes by switching a link, so a file can change without being written. Its inode
changes then.
"""

from collections.abc import Iterable
from pathlib import Path

Fingerprint = tuple[tuple[int, int, int] | None, ...]
"""Modification time, size and inode of each file; None for a file that does not exist."""


def fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """Return a value that changes when one of the files changes."""
    return tuple(map(_stat, paths))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
