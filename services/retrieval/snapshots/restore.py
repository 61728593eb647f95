"""Makes a data folder of a snapshot, without a server: `python -m services.retrieval.restore --help`.

Rule: the data folder appears whole, by a rename after every file was copied, compared with its SHA-256 and is on disk.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from sluice.signals import stop_on_signals

from services.retrieval.embedded.storage.segment_files import sync
from services.retrieval.snapshots.manifest import DATA, BadSnapshot, File, Manifest, read_manifest

PROGRAM: Final = "sluice-retrieval-restore"
_CHUNK_BYTES: Final = 1 << 20


class RestoreRefused(Exception):
    """The data folder is not one to restore to; the message says why."""


def restore(snapshot: Path, data: Path) -> Manifest:
    """Copy a snapshot to a data folder that is empty or not there, and return what it has.

    Raises BadSnapshot, RestoreRefused, and OSError when the disk does not take it; nothing is left of it then.
    """
    manifest, _ = read_manifest(snapshot)
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise RestoreRefused(f"expected an empty folder or none, got {data}: choose another, or move it away")
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
    """A file of a folder. Raises BadSnapshot when its name leads out of it."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise BadSnapshot(f"{folder.parent}: expected names of files within it, found {name[:128]!r}")
    return folder / name


def _copy(source: Path, target: Path, expected: File) -> None:
    """Copy a file. Raises BadSnapshot when it is not what the manifest says."""
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
    """Run the command. Returns 0 when the data folder is there, 1 when it was refused."""
    stop_on_signals()
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("snapshot", type=Path, metavar="SNAPSHOT", help="folder of the snapshot")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="data folder to make; empty, or not there"
    )
    given = parser.parse_args()
    try:
        manifest = restore(given.snapshot, given.data.resolve())
    except (BadSnapshot, RestoreRefused, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: nothing was restored: {error}\n")
        return 1
    for one in manifest.collections:
        sys.stdout.write(f"{one.name}: {one.document_count:,} documents, version {one.version:,}\n")
    sys.stdout.write(
        f"{given.data}: {manifest.size_bytes:,} bytes restored; start the server with --data {given.data}\n"
    )
    return 0
