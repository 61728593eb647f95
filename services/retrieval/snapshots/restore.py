"""Restores a snapshot to a data folder without a server.

Rule: the data folder is renamed to its final name after all files are copied, match their SHA-256 and are on disk.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from sluice.signals import stop_on_signals

from services.retrieval.files import sync
from services.retrieval.snapshots.manifest import DATA, BadSnapshot, File, Manifest, read_manifest

PROGRAM: Final = "sluice-retrieval-restore"
_DESCRIPTION: Final = "Restore a snapshot to a new data folder. Needs no server."
_CHUNK_BYTES: Final = 1 << 20


class RestoreError(Exception):
    """The data folder cannot be the target of a restore. The message says why."""


def restore(snapshot: Path, data: Path) -> Manifest:
    """Copy a snapshot to a data folder, which must be empty or missing, and return its manifest.

    Raises BadSnapshot, RestoreError, and OSError if the disk rejects it. An error leaves no files.
    """
    manifest, _ = read_manifest(snapshot)
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise RestoreError(f"expected an empty or missing folder, got {data}; choose another one or move its contents")
    draft = data.with_name(f"{data.name}.restoring")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for name, expected in manifest.files.items():
            _copy(_within(snapshot / DATA, name), draft / name, expected)
        for path in (*draft.rglob("*"), draft):
            sync(path)
        draft.rename(data)
        sync(data.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _within(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder. Raises BadSnapshot if the name leads out of the folder."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise BadSnapshot(f"{folder.parent}: expected names of files within the snapshot, found {name[:128]!r}")
    return folder / name


def _copy(source: Path, target: Path, expected: File) -> None:
    """Copy a file. Raises BadSnapshot if it does not match the manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    value, size = hashlib.sha256(), 0
    try:
        given = source.open("rb")
    except OSError as error:
        raise BadSnapshot(f"{source}: {error.strerror}") from error
    with given, target.open("wb") as written:
        while chunk := given.read(_CHUNK_BYTES):
            value.update(chunk)
            size += written.write(chunk)
    if size != expected.bytes:
        raise BadSnapshot(f"{source}: expected {expected.bytes:,} bytes, found {size:,}")
    if value.hexdigest() != expected.sha256:
        raise BadSnapshot(f"{source}: expected SHA-256 {expected.sha256}, found {value.hexdigest()}")


def main(*, program: str) -> int:
    """Run the command, and return its exit status: 0 on success, 1 on failure."""
    stop_on_signals()
    parser = argparse.ArgumentParser(prog=program, description=_DESCRIPTION)
    parser.add_argument("snapshot", type=Path, metavar="SNAPSHOT", help="folder of the snapshot")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="data folder to create; must be empty or missing"
    )
    given = parser.parse_args()
    try:
        manifest = restore(given.snapshot, given.data.resolve())
    except (BadSnapshot, RestoreError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: nothing was restored: {error}\n")
        return 1
    for one in manifest.collections:
        sys.stdout.write(f"{one.name}: {one.document_count:,} documents, version {one.version:,}\n")
    sys.stdout.write(
        f"{given.data}: {manifest.size_bytes:,} bytes restored; start the server with --data {given.data}\n"
    )
    return 0
