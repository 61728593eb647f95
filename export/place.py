"""Where a bundle is put: one export at a time, and all of it or nothing.

Rule: the folder of a bundle is only ever renamed into its place, whole.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder` when the block ends well, and is gone when it does not.

    A second export of the same bundle waits for the first. What a killed one left is removed by the next.
    """
    prefix = f".{folder.name}~"  # no other bundle's begins so: a name has no ~
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it for this user alone
        if folder.exists():
            folder.rename(Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent)) / "replaced")
        temporary.rename(folder)
    finally:
        for left in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the only right to write `folder` until the block ends; waits for whoever holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
