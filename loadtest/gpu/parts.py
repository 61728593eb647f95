"""Parts small enough to carry: the staged files, compressed, cut where they are larger than a part, and distributed.

A part is a folder with `take.py`, `index.json` and files. Files over 2 MiB are compressed on their own, all others
together as `small.tar`.
"""

import hashlib
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TAKE: Final = Path(__file__).with_name("take.py")
_LARGE: Final = 2 * 2**20
_CHUNK: Final = 2**20


@dataclass(frozen=True)
class Piece:
    """A compressed file, or one of several equal cuts of it."""

    name: str
    """Path of the file on the GPU machine, below the folder of the kit."""
    path: Path
    number: int
    of: int

    @property
    def size(self) -> int:
        """Bytes of the piece; the last cut of a file may have fewer."""
        return -(-self.path.stat().st_size // self.of)

    def content(self) -> bytes:
        """Read the piece."""
        with self.path.open("rb") as file:
            file.seek(self.number * self.size)
            return file.read(self.size)


def write_parts(stage: Path, packed: Path, out: Path, limit: int) -> list[Path]:
    """Write parts of at most `limit` bytes of files to the folder `out`, and return their folders.

    packed  folder of compressed files; those of an earlier run are used again when the content is the same
    """
    compressed = _compress_all(stage, packed)
    pieces = [piece for name, path in compressed for piece in _cut(name, path, limit)]
    for old in out.glob("part-*"):
        shutil.rmtree(old)
    shares = _distribute(pieces, limit)
    folders = [out / f"part-{number}" for number in range(1, len(shares) + 1)]
    for number, (folder, share) in enumerate(zip(folders, shares, strict=True), 1):
        _write_part(folder, number, len(shares), share)
    return folders


def _compress_all(stage: Path, packed: Path) -> list[tuple[str, Path]]:
    """Return the name on the GPU machine and the compressed file of everything that is staged."""
    packed.mkdir(exist_ok=True)
    files = [path for path in sorted(stage.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    large = [path for path in files if path.stat().st_size > _LARGE]
    small = packed / "small.tar"
    with tarfile.open(small, "w") as tar:
        for path in files:
            if path not in large:
                tar.add(path, str(path.relative_to(stage)), recursive=False)
    print(f"== compressing {len(large)} large files and the rest: takes minutes", flush=True)
    names = [*(str(path.relative_to(stage)) for path in large), small.name]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(zip(names, pool.map(lambda path: _compress(path, packed), [*large, small]), strict=True))


def _compress(path: Path, packed: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = packed / f"{path.name}.{digest}.xz"
    if not target.exists():
        draft = target.with_suffix(".draft")
        with path.open("rb") as source, lzma.open(draft, "wb", preset=6) as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
        draft.rename(target)
    return target


def _cut(name: str, path: Path, limit: int) -> list[Piece]:
    count = max(1, -(-path.stat().st_size // limit))
    return [Piece(name, path, number, count) for number in range(count)]


def _distribute(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """Return the pieces of each part: the largest first, each into the first part that has room."""
    shares: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.size):
        for share in shares:
            if sum(one.size for one in share) + piece.size <= limit:
                share.append(piece)
                break
        else:
            shares.append([piece])
    return shares


def _write_part(folder: Path, number: int, count: int, pieces: Sequence[Piece]) -> None:
    folder.mkdir()
    index = []
    for piece in pieces:
        content = piece.content()
        file = f"{piece.path.name}.{piece.number + 1}of{piece.of}" if piece.of > 1 else piece.path.name
        (folder / file).write_bytes(content)
        entry = {"name": piece.name, "file": file, "piece": piece.number, "of": piece.of}
        index.append({**entry, "sha256": hashlib.sha256(content).hexdigest()})
    (folder / "index.json").write_text(json.dumps({"number": number, "count": count, "files": index}))
    shutil.copy2(TAKE, folder / TAKE.name)
