"""Atomic writing of a bundle: one export at a time, and either the whole bundle or nothing.

Rule: a bundle's folder only ever appears by renaming a complete one.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder that is renamed to `folder` if the block succeeds, and removed if it fails.

    Removes what killed exports left behind. Call it with the lock held (`locked`).
    """
    prefix = f".{folder.name}~"  # unique: names have no ~
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp allows only this user
        if folder.exists():
            folder.rename(Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent)) / "replaced")
        temporary.rename(folder)
    finally:
        for left in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on writing `folder` for the block; wait while another export holds it.

    If the block fails, remove the lock's file and the parent folders that were created for it.
    """
    created = [parent for parent in folder.parents if not parent.exists()]
    lock = folder.parent / f".{folder.name}.lock"
    with _acquire(lock):
        try:
            yield
        except BaseException:
            lock.unlink()
            with suppress(OSError):  # another export may use the folder
                for parent in created:
                    parent.rmdir()
            raise


def _acquire(lock: Path) -> IO[str]:
    """Return the open, locked file. Another export may remove the file while this one waits for it."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = lock.open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
            file.close()
