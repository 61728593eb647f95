"""The folder of snapshots: make one, list them, delete one.

Rule: one server a folder. What is in it and is no whole snapshot is not listed, and not touched but for drafts.
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

from services.retrieval.embedded.storage.segment_files import sync
from services.retrieval.embedded.storage.store import LOCK, unwritable
from services.retrieval.snapshots.manifest import DATA, BadSnapshot, Manifest, read_manifest, write_manifest

logger = logging.getLogger(__name__)

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DRAFT: Final = ".draft"
_RETRY_AFTER_S: Final = 1.0

# Writes a data folder into a folder, at one moment.
Copy = Callable[[Path, Callable[[], bool]], None]


@dataclass(frozen=True)
class Snapshot:
    """A whole snapshot. `digest` is the SHA-256 of its manifest."""

    name: str
    manifest: Manifest
    digest: str


class Snapshots:
    """The snapshots in one folder; None refuses to make any."""

    def __init__(self, folder: Path | None, copy: Copy, now_us: Callable[[], int]) -> None:
        self._folder = folder
        self._copy = copy
        self._now_us = now_us

    def create(self, name: str, keep: int, is_stopped: Callable[[], bool]) -> tuple[Snapshot, list[str]]:
        """The new snapshot, or the one of that name; and the names of those deleted because only `keep` stay.

        Raises PreconditionFailed when there is no folder or no room, Unavailable when another one is being made, and
        Stopped; nothing is left of it then.
        """
        folder = self._required()
        created_us = self._now_us()
        name = name or name_of(created_us)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if not (folder / name).exists():
                    self._make(folder, name, created_us, is_stopped)
                snapshot = _read(folder / name)
                return snapshot, self._expire(folder, name, keep) if keep else []
        except BadSnapshot as error:
            raise PreconditionFailed(f"the name is taken by what is no whole snapshot: {error}") from error
        except OSError as error:
            raise unwritable(error) from error

    def all(self) -> list[Snapshot]:
        """All whole snapshots, the eldest first. Raises PreconditionFailed when there is no folder for them."""
        return sorted(_whole(self._required()), key=lambda one: (one.manifest.created_us, one.name))

    def delete(self, name: str) -> None:
        """Delete a snapshot. Raises NotFound, and as `create`."""
        folder = self._required()
        if name not in {one.name for one in _whole(folder)}:
            raise NotFound(f"no snapshot {name[:64]!r}", metadata={"snapshot": name[:64]})
        try:
            with _locked(folder):
                _remove(folder / name)
        except OSError as error:
            raise unwritable(error) from error

    def _required(self) -> Path:
        if self._folder is None:
            raise PreconditionFailed(
                "expected a folder for snapshots, got none: start the server with --snapshots FOLDER"
                " (SLUICE_RETRIEVAL_SNAPSHOTS)"
            )
        return self._folder

    def _make(self, folder: Path, name: str, created_us: int, is_stopped: Callable[[], bool]) -> None:
        for left in folder.glob(f"*{_DRAFT}"):  # by a process that was killed
            shutil.rmtree(left)
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
        logger.info("snapshot made", extra={"snapshot": name})

    def _expire(self, folder: Path, newest: str, keep: int) -> list[str]:
        """Delete all others but `keep` - 1; their names."""
        others = [one.name for one in self.all() if one.name != newest]
        eldest = others[: max(0, len(others) - (keep - 1))]
        for name in eldest:
            _remove(folder / name)
        return eldest


def name_of(created_us: int) -> str:
    """The name of a snapshot made at that moment: 20260131t235959-123456."""
    seconds, microseconds = divmod(created_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dt%H%M%S}-{microseconds:06}"


def _whole(folder: Path) -> Iterator[Snapshot]:
    for path in folder.glob("*"):
        if NAME.fullmatch(path.name) and path.is_dir():
            try:
                yield _read(path)
            except BadSnapshot as error:
                logger.warning("snapshot not listed: %s", error)


def _read(folder: Path) -> Snapshot:
    return Snapshot(folder.name, *read_manifest(folder))


def _remove(folder: Path) -> None:
    """Remove a snapshot: first it is none any more, then it goes."""
    draft = folder.with_name(f"{folder.name}{_DRAFT}")
    shutil.rmtree(draft, ignore_errors=True)
    folder.rename(draft)
    shutil.rmtree(draft)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time, also between processes. Raises Unavailable."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Unavailable("another snapshot is being made or deleted", retry_after_s=_RETRY_AFTER_S) from error
    finally:
        os.close(descriptor)
