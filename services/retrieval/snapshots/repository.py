"""The folder of snapshots: creates, lists and deletes them.

Rule: each server has its own folder. Other files in it are not listed and not changed, except for drafts.
"""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sluice.errors import NotFound, PreconditionFailed, Unavailable

from services.retrieval.cancellation import IsStopped
from services.retrieval.domain.errors import storage_unwritable
from services.retrieval.files import LOCK, sync
from services.retrieval.snapshots.manifest import DATA, BadSnapshot, Manifest, read_manifest, write_manifest

logger = logging.getLogger(__name__)

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DRAFT: Final = ".draft"
_RETRY_AFTER_S: Final = 1.0

Copy = Callable[[Path, IsStopped], None]
"""Writes a consistent copy of all data into a folder."""


@dataclass(frozen=True)
class Snapshot:
    """A complete snapshot. `digest` is the SHA-256 of its manifest."""

    name: str
    manifest: Manifest
    digest: str


class SnapshotRepository:
    """The snapshots in one folder. Without a folder every method raises PreconditionFailed."""

    def __init__(self, folder: Path | None, copy: Copy, now_us: Callable[[], int]) -> None:
        self._folder = folder
        self._copy = copy
        self._now_us = now_us

    def create(self, name: str, keep: int, is_stopped: IsStopped) -> tuple[Snapshot, list[str]]:
        """Create a snapshot, or find the one with this name, and return it with the names of deleted ones.

        If `keep` is not 0, only the `keep` newest snapshots stay.

        Raises PreconditionFailed without a folder or enough disk space, Unavailable while another snapshot is created
        or deleted, and Stopped. An error leaves no files.
        """
        folder = self._required_folder()
        created_us = self._now_us()
        name = name or default_name(created_us)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder):
                if not (folder / name).exists():
                    self._write(folder, name, created_us, is_stopped)
                snapshot = _read(folder / name)
                return snapshot, self._expire(folder, name, keep) if keep else []
        except BadSnapshot as error:
            raise PreconditionFailed(
                f"the name {name!r} is taken by something that is not a complete snapshot: {error}"
            ) from error
        except OSError as error:
            raise storage_unwritable(error) from error

    def all(self) -> list[Snapshot]:
        """Return all complete snapshots, oldest first. Raises PreconditionFailed without a folder."""
        return sorted(_complete(self._required_folder()), key=lambda one: (one.manifest.created_us, one.name))

    def delete(self, name: str) -> None:
        """Delete a snapshot. Raises NotFound, and what `create` raises."""
        folder = self._required_folder()
        if name not in {one.name for one in _complete(folder)}:
            raise NotFound(f"no snapshot {name[:64]!r}", metadata={"snapshot": name[:64]})
        try:
            with _lock(folder):
                _remove(folder / name)
        except OSError as error:
            raise storage_unwritable(error) from error

    def _required_folder(self) -> Path:
        if self._folder is None:
            raise PreconditionFailed(
                "no folder for snapshots is configured: start the server with --snapshots FOLDER"
                " (SLUICE_RETRIEVAL_SNAPSHOTS)"
            )
        return self._folder

    def _write(self, folder: Path, name: str, created_us: int, is_stopped: IsStopped) -> None:
        for leftover in folder.glob(f"*{_DRAFT}"):  # of a process that was killed
            shutil.rmtree(leftover)
        draft = folder / f"{name}{_DRAFT}"
        (draft / DATA).mkdir(parents=True)
        try:
            self._copy(draft / DATA, is_stopped)
            write_manifest(draft, created_us, is_stopped)
            draft.rename(folder / name)
            sync(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        logger.info("snapshot created", extra={"snapshot": name})

    def _expire(self, folder: Path, newest: str, keep: int) -> list[str]:
        """Delete the oldest snapshots so that `keep` stay, the newest included, and return their names."""
        others = [one.name for one in self.all() if one.name != newest]
        expired = others[: max(0, len(others) - (keep - 1))]
        for name in expired:
            _remove(folder / name)
        return expired


def default_name(created_us: int) -> str:
    """Return the name of a snapshot by its creation time, such as 20260131t235959-123456."""
    seconds, microseconds = divmod(created_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dt%H%M%S}-{microseconds:06}"


def _complete(folder: Path) -> Iterator[Snapshot]:
    for path in folder.glob("*"):
        if NAME.fullmatch(path.name) and path.is_dir():
            try:
                yield _read(path)
            except BadSnapshot as error:
                logger.warning("folder skipped; not a complete snapshot: %s", error)


def _read(folder: Path) -> Snapshot:
    return Snapshot(folder.name, *read_manifest(folder))


def _remove(folder: Path) -> None:
    """Remove a snapshot. It is renamed first, so that a partly removed one is never listed."""
    draft = folder.with_name(f"{folder.name}{_DRAFT}")
    shutil.rmtree(draft, ignore_errors=True)
    folder.rename(draft)
    shutil.rmtree(draft)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the folder for the block, also against other processes. Raises Unavailable."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Unavailable(
            "another snapshot is being created or deleted; try again", retry_after_s=_RETRY_AFTER_S
        ) from error
    finally:
        os.close(descriptor)
