"""A snapshot on disk: a data folder, and a manifest with the SHA-256 of every file.

    NAME/
        data/                    a data folder: the database and the segments
        manifest.json            format, creation time, collections, size and SHA-256 of every file below data/
        manifest.json.sha256     SHA-256 of the manifest, in the format of sha256sum

Rule: the folder is renamed to its final name after all its files are on disk. A folder whose manifest is missing or
does not match its SHA-256 is not a snapshot.
"""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from services.retrieval.cancellation import IsStopped, Stopped
from services.retrieval.files import DATABASE, FORMAT_VERSION, sync

FORMAT: Final = 1
DATA: Final = "data"
MANIFEST: Final = "manifest.json"
CHECKSUM: Final = f"{MANIFEST}.sha256"
_CHUNK_BYTES: Final = 1 << 20


class BadSnapshot(Exception):
    """A snapshot cannot be used. The message says why."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class File(_Model):
    """A file of a snapshot."""

    bytes: int
    sha256: str


class SavedCollection(_Model):
    """A collection in a snapshot."""

    name: str
    version: int
    document_count: int


class Manifest(_Model):
    """The contents of a snapshot. The keys of `files` are paths below data/."""

    format: int
    store_format: int
    created_us: int
    collections: Sequence[SavedCollection]
    files: Mapping[str, File]

    @property
    def size_bytes(self) -> int:
        """Total size of all files, in bytes."""
        return sum(file.bytes for file in self.files.values())


def write_manifest(folder: Path, created_us: int, is_stopped: IsStopped) -> None:
    """Write the manifest of the files below data/, and wait until all files are on disk. Raises OSError and Stopped."""
    data = folder / DATA
    collections = _collections(data)
    files = {}
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        sha256 = digest_of(path, is_stopped)
        files[path.relative_to(data).as_posix()] = File(bytes=path.stat().st_size, sha256=sha256)
    manifest = Manifest(
        format=FORMAT, store_format=FORMAT_VERSION, created_us=created_us, collections=collections, files=files
    )
    written = manifest.model_dump_json(indent=2).encode()
    (folder / MANIFEST).write_bytes(written)
    (folder / CHECKSUM).write_text(f"{hashlib.sha256(written).hexdigest()}  {MANIFEST}\n")
    for path in (*folder.rglob("*"), folder):
        sync(path)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Read and verify the manifest of a snapshot, and return it with its SHA-256. Raises BadSnapshot."""
    try:
        written = (folder / MANIFEST).read_bytes()
        expected = (folder / CHECKSUM).read_text().split()[0]
    except (OSError, ValueError, IndexError) as error:
        raise BadSnapshot(f"{folder} is not a complete snapshot: {error}") from error
    digest = hashlib.sha256(written).hexdigest()
    if digest != expected:
        raise BadSnapshot(f"{folder / MANIFEST}: expected SHA-256 {expected[:64]}, found {digest}")
    try:
        manifest = Manifest.model_validate_json(written)
    except ValidationError as error:
        raise BadSnapshot(f"{folder / MANIFEST}: {error}") from error
    if manifest.format > FORMAT:
        raise BadSnapshot(
            f"{folder} has format {manifest.format}, this release reads formats up to {FORMAT}; use a newer release"
        )
    if manifest.store_format > FORMAT_VERSION:
        raise BadSnapshot(
            f"{folder} has data of format {manifest.store_format}, this release reads formats up to {FORMAT_VERSION};"
            " use a newer release"
        )
    return manifest, digest


def digest_of(path: Path, is_stopped: IsStopped = lambda: False) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises OSError and Stopped."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if is_stopped():
                raise Stopped
            value.update(chunk)
    return value.hexdigest()


def _collections(data: Path) -> list[SavedCollection]:
    """Return the collections in a copied database."""
    connection = sqlite3.connect(f"{(data / DATABASE).resolve().as_uri()}?immutable=1", uri=True)
    try:
        found = connection.execute(
            "SELECT name, version, (SELECT COUNT(*) FROM documents WHERE collection = c.collection)"
            " FROM collections AS c ORDER BY name"
        )
        return [SavedCollection(name=name, version=version, document_count=count) for name, version, count in found]
    finally:
        connection.close()
