"""Files that may change while a server runs.

Fact: a mounted Kubernetes volume changes by switching a link, so a file changes without being written: its inode tells.
"""

from collections.abc import Iterable
from pathlib import Path

# Of each file: when it was changed, its size, its inode; None when it is not there.
Mark = tuple[tuple[int, int, int] | None, ...]


def mark_of(paths: Iterable[Path]) -> Mark:
    """What tells one state of the files from another."""
    return tuple(map(_mark, paths))


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
