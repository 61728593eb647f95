"""A snapshot on disk: a data folder of its own, and a manifest with the SHA-256 of every file.

    NAME/
        data/                    as in `store` and `segments`
        manifest.json            format, when, collections, bytes and SHA-256 of every file under data/
        manifest.json.sha256     that of the manifest, as sha256sum writes and checks it

Rule: the folder appears whole, by a rename after everything in it is on disk. What has no manifest that fits its
SHA-256 is no snapshot.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from services.retrieval.embedded.index.ann import Stopped
from services.retrieval.embedded.storage.segment_files import sync
from services.retrieval.embedded.storage.store import DATABASE, FORMAT_VERSION

FORMAT: Final = 1
DATA: Final = "data"
MANIFEST: Final = "manifest.json"
CHECKSUM: Final = f"{MANIFEST}.sha256"
_CHUNK_BYTES: Final = 1 << 20


class BadSnapshot(Exception):
    """A snapshot that cannot be used; the message says what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class File(_Part):
    """A file of a snapshot."""

    bytes: int
    sha256: str


class SavedCollection(_Part):
    """A collection in a snapshot."""

    name: str
    version: int
    document_count: int


class Manifest(_Part):
    """What a snapshot has. `files` are named by their path under data/."""

    format: int
    store_format: int
    created_us: int
    collections: Sequence[SavedCollection]
    files: Mapping[str, File]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files.values())


def write_manifest(folder: Path, created_us: int, is_stopped: Callable[[], bool]) -> None:
    """Describe what is under data/, and wait until all is on disk. Raises OSError, and Stopped."""
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
    """The manifest of a snapshot and its SHA-256. Raises BadSnapshot."""
    try:
        written = (folder / MANIFEST).read_bytes()
        expected = (folder / CHECKSUM).read_text().split()[0]
    except (OSError, ValueError, IndexError) as error:
        raise BadSnapshot(f"{folder} is not a whole snapshot: {error}") from error
    digest = hashlib.sha256(written).hexdigest()
    if digest != expected:
        raise BadSnapshot(f"{folder / MANIFEST}: expected SHA-256 {expected[:64]}, found {digest}")
    try:
        manifest = Manifest.model_validate_json(written)
    except ValidationError as error:
        raise BadSnapshot(f"{folder / MANIFEST}: {error}") from error
    if manifest.format > FORMAT:
        raise BadSnapshot(f"{folder} has format {manifest.format}, this program reads up to {FORMAT}; use a newer one")
    if manifest.store_format > FORMAT_VERSION:
        raise BadSnapshot(
            f"{folder} has data of format {manifest.store_format}, this program reads up to {FORMAT_VERSION};"
            " use a newer one"
        )
    return manifest, digest


def digest_of(path: Path, is_stopped: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of a file, in hex. Raises OSError, and Stopped."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if is_stopped():
                raise Stopped
            value.update(chunk)
    return value.hexdigest()


def _collections(data: Path) -> list[SavedCollection]:
    """The collections of a copied store."""
    connection = sqlite3.connect(f"{(data / DATABASE).resolve().as_uri()}?immutable=1", uri=True)
    try:
        found = connection.execute(
            "SELECT name, version, (SELECT COUNT(*) FROM documents WHERE collection = c.collection)"
            " FROM collections AS c ORDER BY name"
        )
        return [SavedCollection(name=name, version=version, document_count=count) for name, version, count in found]
    finally:
        connection.close()
