"""Segments on disk: blocks with their coarse indexes, so that a start need not build them again.

    segments/KEY/LAST_ROW/
        manifest.json        format, last row, version of the analysis, size and CRC-32 of every other file
        ids.json             ids in the order of the rows, and the words of the columns
        arrays.npz           rows, lengths, columns, inverted lists
        vectors-FIELD.npy    float32[N, D], mapped into memory
        tokens-FIELD.npy     float16[P, D] or int8[P, D], mapped into memory
        scales-FIELD.npy     float32[P] of int8 tokens, mapped into memory
        coarse-FIELD.faiss   the coarse index of a dense field, or of a multi-vector field with an encoding

Rule: derived data. A folder appears whole, by a rename after everything in it is on disk; what is damaged or of
another format is left aside, and built again from the store.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retrieval.domain.schema import ANALYSIS, Schema, TokenType
from services.retrieval.embedded.index.ann import CoarseIndex, Form
from services.retrieval.embedded.index.columns import COLUMNS
from services.retrieval.embedded.index.fde import encoded_fields
from services.retrieval.embedded.index.multi_vectors import Tokens
from services.retrieval.embedded.index.postings import Postings
from services.retrieval.embedded.index.view import Block, Vectors

FORMAT: Final = 2
# Format 1 does not name its analysis, which was the first.
_FORMATS: Final = (1, FORMAT)
MANIFEST: Final = "manifest.json"
_ARRAYS: Final = "arrays.npz"
_CHUNK_BYTES: Final = 1 << 20
_COPY_TRIES: Final = 10


class Damaged(Exception):
    """A segment that cannot be used; the message says which file and why."""


def segment_folders(folder: Path) -> list[Path]:
    """The segments of a collection, newest first."""
    found = [path for path in folder.glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def save(block: Block, last_row: int, folder: Path) -> Path:
    """Write a block with its coarse indexes under the folder of its collection; the segment's own folder.

    Raises OSError when the disk does not take it; nothing is left of it then.
    """
    final, draft = folder / str(last_row), folder / f"{last_row}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write(block, draft)
        _finish(draft, final, last_row)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return final


def save_postings(block: Block, segment: Path) -> None:
    """Put a segment with the block's arrays in the place of one that differs from it in its inverted lists alone.

    The larger files are linked, not written again. Raises OSError when the disk does not take it.
    """
    draft = segment.with_name(f"{segment.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        for path in segment.iterdir():
            if path.name not in {MANIFEST, _ARRAYS}:
                _link(path, draft / path.name)
        np.savez(draft / _ARRAYS, allow_pickle=False, **_arrays(block))
        _finish(draft, segment, int(segment.name))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _finish(draft: Path, final: Path, last_row: int) -> None:
    """Describe the files of a draft, wait until they are on disk, and let it take its place."""
    files = {path.name: {"bytes": path.stat().st_size, "crc32": crc32(path)} for path in sorted(draft.iterdir())}
    manifest = {"format": FORMAT, "last_row": last_row, "analysis": ANALYSIS, "files": files}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=2))
    for path in (*draft.iterdir(), draft):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    sync(final.parent)


def copy_segments(folder: Path, target: Path) -> None:
    """Copy the newest segment of every collection, by links where the disk allows it, while others take their place.

    A segment that is replaced all the time is left out: it is derived data. Raises OSError.
    """
    for collection in folder.glob("*"):
        for _ in range(_COPY_TRIES):
            newest = segment_folders(collection)[:1]
            if not newest or _copied(newest[0], target / collection.name / newest[0].name):
                break


def _copied(segment: Path, target: Path) -> bool:
    """Whether a segment was copied whole: it may be replaced, by one of its own name too, while it is copied."""
    try:
        before = (segment / MANIFEST).stat().st_ino
        target.mkdir(parents=True)
        for path in segment.iterdir():
            _link(path, target / path.name)
        if (segment / MANIFEST).stat().st_ino == before:
            return True
    except FileNotFoundError:
        pass
    shutil.rmtree(target, ignore_errors=True)
    return False


def _link(path: Path, target: Path) -> None:
    """The same file, or a copy of it, in another place. Files of segments never change."""
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, target)
        sync(target)


@dataclass(frozen=True)
class Segment:
    """A segment as it was read: its block, the last row of its state, and the version of the analysis of its words."""

    block: Block
    last_row: int
    analysis: int


def load(folder: Path, schema: Schema) -> Segment:
    """Return the segment in a folder. Raises Damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] not in _FORMATS:
            raise Damaged(f"{folder}: expected format {FORMAT}, found {manifest['format']}")
        if manifest["last_row"] != int(folder.name):
            raise Damaged(f"{folder}: expected last row {folder.name}, found {manifest['last_row']}")
        for name, expected in manifest["files"].items():
            _check(folder / name, expected)
        return Segment(_read(folder, schema), int(manifest["last_row"]), int(manifest.get("analysis", 1)))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Damaged(f"{folder}: {error}") from error


def crc32(path: Path) -> int:
    """The CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def mapped(block: Block, folder: Path) -> Block:
    """The block with the vectors of its saved segment: in the page cache of the system, not in our memory."""
    vectors = {
        name: replace(given, matrix=_mapped(folder / f"vectors-{name}.npy")) for name, given in block.vectors.items()
    }
    tokens = {
        name: replace(
            given,
            vectors=_mapped(folder / f"tokens-{name}.npy"),
            scales=None if given.scales is None else _mapped(folder / f"scales-{name}.npy"),
        )
        for name, given in block.tokens.items()
    }
    return replace(block, vectors=vectors, tokens=tokens)


def _write(block: Block, folder: Path) -> None:
    for name, vectors in block.vectors.items():
        np.save(folder / f"vectors-{name}.npy", vectors.matrix)
        if vectors.coarse is not None:
            vectors.coarse.save(folder / f"coarse-{name}.faiss")
    for name, tokens in block.tokens.items():
        np.save(folder / f"tokens-{name}.npy", tokens.vectors)
        if tokens.scales is not None:
            np.save(folder / f"scales-{name}.npy", tokens.scales)
        if tokens.coarse is not None:
            tokens.coarse.save(folder / f"coarse-{name}.faiss")
    np.savez(folder / _ARRAYS, allow_pickle=False, **_arrays(block))
    words = {name: column.state()[1] for name, column in block.columns.items()}
    (folder / "ids.json").write_text(json.dumps({"ids": block.ids, "words": words}), encoding="utf-8")


def _arrays(block: Block) -> dict[str, NDArray[Any]]:
    """The arrays of a block that are read into memory."""
    arrays: dict[str, NDArray[Any]] = {"rows": block.rows}
    arrays |= {f"lengths-{name}": vectors.lengths for name, vectors in block.vectors.items()}
    arrays |= {f"tokens-{name}": tokens.starts for name, tokens in block.tokens.items()}
    for name, column in block.columns.items():
        arrays |= {f"column-{name}-{part}": array for part, array in column.state()[0].items()}
    for name, postings in block.postings.items():
        arrays |= {f"postings-{name}-{part}": array for part, array in postings.state().items()}
    return arrays


def _read(folder: Path, schema: Schema) -> Block:
    texts = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    with np.load(folder / _ARRAYS, allow_pickle=False) as file:
        arrays = dict(file)
    vectors = {
        field.name: Vectors(
            _mapped(folder / f"vectors-{field.name}.npy"),
            arrays[f"lengths-{field.name}"],
            CoarseIndex.load(folder / f"coarse-{field.name}.faiss", Form.of(field), len(arrays["rows"])),
        )
        for field in schema.dense
    }
    columns = {
        field.name: COLUMNS[field.kind].restored((_parts(arrays, f"column-{field.name}-"), texts["words"][field.name]))
        for field in schema.metadata
    }
    with_lists = [field.name for field in schema.text] + [field.name for field in schema.sparse]
    postings = {name: Postings(**_parts(arrays, f"postings-{name}-")) for name in with_lists}
    tokens = {
        field.name: Tokens(
            _mapped(folder / f"tokens-{field.name}.npy"),
            arrays[f"tokens-{field.name}"],
            _mapped(folder / f"scales-{field.name}.npy") if field.stored is TokenType.I8 else None,
        )
        for field in schema.multi_vector
    }
    for encoded in encoded_fields(schema):
        coarse = CoarseIndex.load(folder / f"coarse-{encoded.name}.faiss", encoded.form, len(arrays["rows"]))
        tokens[encoded.name] = replace(tokens[encoded.name], coarse=coarse)
    return Block(arrays["rows"], texts["ids"], columns, vectors, postings, tokens, is_segment=True)


def _parts(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _mapped(path: Path) -> NDArray[Any]:
    # Not np.memmap itself, which makes every selection some 10 us slower.
    return np.asarray(np.load(path, mmap_mode="r"))


def _check(path: Path, expected: Mapping[str, int]) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise Damaged(f"{path}: expected {expected['bytes']:,} bytes, found {size:,}")
    found = crc32(path)
    if found != expected["crc32"]:
        raise Damaged(f"{path}: expected CRC-32 {expected['crc32']:08x}, found {found:08x}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
