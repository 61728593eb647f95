"""Segments on disk: blocks with their approximate indexes, so that a start does not rebuild them.

    segments/KEY/LAST_ROW/
        manifest.json        format, last row, version of text analysis, size and CRC-32 of every other file
        ids.json             ids in the order of the rows, and the words of the columns
        arrays.npz           rows, lengths, columns, inverted lists
        vectors-FIELD.npy    float32[N, D], mapped into memory
        tokens-FIELD.npy     float16[P, D] or int8[P, D], mapped into memory
        scales-FIELD.npy     float32[P] of int8 tokens, mapped into memory
        coarse-FIELD.faiss   the approximate index of a dense field, or of a multi-vector field with an encoding

Rule: segments are derived data. A folder is renamed to its final name after all its files are on disk. A segment that
is damaged or has an unknown format is ignored and rebuilt from the store.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retrieval.domain.schema import ANALYSIS_VERSION, Schema, TokenType
from services.retrieval.domain.vectors import TokenVectors
from services.retrieval.embedded.index.ann import AnnIndex, VectorFormat
from services.retrieval.embedded.index.columns import COLUMNS
from services.retrieval.embedded.index.fde import fde_fields
from services.retrieval.embedded.index.multi_vectors import MultiVectors
from services.retrieval.embedded.index.postings import Postings
from services.retrieval.embedded.index.view import Block, DenseVectors
from services.retrieval.files import crc32, sync

FORMAT: Final = 2
# Format 1 does not contain the version of text analysis, which was always 1.
_FORMATS: Final = (1, FORMAT)
MANIFEST: Final = "manifest.json"
_ARRAYS: Final = "arrays.npz"
_COPY_TRIES: Final = 10


class DamagedSegment(Exception):
    """A segment cannot be used. The message names the file and the reason."""


def segment_folders(folder: Path) -> list[Path]:
    """Return the folders of a collection's segments, newest first."""
    found = [path for path in folder.glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def save(block: Block, last_row: int, folder: Path) -> Path:
    """Write a block with its approximate indexes below the folder of its collection, and return the new folder.

    Raises OSError if the disk rejects it, and then leaves no files.
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
    """Replace a saved segment by one that differs only in its inverted lists.

    The larger files are linked, not rewritten. Raises OSError if the disk rejects it.
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
    """Write the manifest of a draft, wait until its files are on disk, and rename it to its final name."""
    files = {path.name: {"bytes": path.stat().st_size, "crc32": crc32(path)} for path in sorted(draft.iterdir())}
    manifest = {"format": FORMAT, "last_row": last_row, "analysis": ANALYSIS_VERSION, "files": files}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=2))
    for path in (*draft.iterdir(), draft):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    sync(final.parent)


def copy_segments(folder: Path, target: Path) -> None:
    """Copy the newest segment of every collection, by links if possible, while segments may be replaced.

    A segment that is replaced during every attempt is skipped, because it is derived data. Raises OSError.
    """
    for collection in folder.glob("*"):
        for _ in range(_COPY_TRIES):
            newest = segment_folders(collection)[:1]
            if not newest or _copy(newest[0], target / collection.name / newest[0].name):
                break


def _copy(segment: Path, target: Path) -> bool:
    """Copy a segment. Return false if it was replaced meanwhile, possibly by one of the same name."""
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
    """Link a file, or copy it if the disk has no links. Files of segments never change."""
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, target)
        sync(target)


@dataclass(frozen=True)
class Segment:
    """A segment read from disk: its block, the last row of its state, and the version of its text analysis."""

    block: Block
    last_row: int
    analysis: int


def load(folder: Path, schema: Schema) -> Segment:
    """Read the segment in a folder. Raises DamagedSegment."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] not in _FORMATS:
            raise DamagedSegment(f"{folder}: expected format {FORMAT}, found {manifest['format']}")
        if manifest["last_row"] != int(folder.name):
            raise DamagedSegment(f"{folder}: expected last row {folder.name}, found {manifest['last_row']}")
        for name, expected in manifest["files"].items():
            _check(folder / name, expected)
        return Segment(_read(folder, schema), int(manifest["last_row"]), int(manifest.get("analysis", 1)))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedSegment(f"{folder}: {error}") from error


def with_mapped_vectors(block: Block, folder: Path) -> Block:
    """Return the block with vectors mapped from its saved segment, in the page cache instead of process memory."""
    vectors = {
        name: replace(given, matrix=_map(folder / f"vectors-{name}.npy")) for name, given in block.vectors.items()
    }
    multi_vectors = {
        name: replace(given, tokens=_map_tokens(given.tokens, folder, name))
        for name, given in block.multi_vectors.items()
    }
    return replace(block, vectors=vectors, multi_vectors=multi_vectors)


def _map_tokens(tokens: TokenVectors, folder: Path, name: str) -> TokenVectors:
    vectors = _map(folder / f"tokens-{name}.npy")
    return replace(
        tokens, vectors=vectors, scales=None if tokens.scales is None else _map(folder / f"scales-{name}.npy")
    )


def _write(block: Block, folder: Path) -> None:
    for name, vectors in block.vectors.items():
        np.save(folder / f"vectors-{name}.npy", vectors.matrix)
        if vectors.ann is not None:
            vectors.ann.save(folder / f"coarse-{name}.faiss")
    for name, multi in block.multi_vectors.items():
        np.save(folder / f"tokens-{name}.npy", multi.tokens.vectors)
        if multi.tokens.scales is not None:
            np.save(folder / f"scales-{name}.npy", multi.tokens.scales)
        if multi.ann is not None:
            multi.ann.save(folder / f"coarse-{name}.faiss")
    np.savez(folder / _ARRAYS, allow_pickle=False, **_arrays(block))
    words = {name: column.state()[1] for name, column in block.columns.items()}
    (folder / "ids.json").write_text(json.dumps({"ids": block.ids, "words": words}), encoding="utf-8")


def _arrays(block: Block) -> dict[str, NDArray[Any]]:
    """Return the arrays of a block that are read into memory, by name in the file."""
    arrays: dict[str, NDArray[Any]] = {"rows": block.rows}
    arrays |= {f"lengths-{name}": vectors.lengths for name, vectors in block.vectors.items()}
    arrays |= {f"tokens-{name}": multi.tokens.starts for name, multi in block.multi_vectors.items()}
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
        field.name: DenseVectors(
            _map(folder / f"vectors-{field.name}.npy"),
            arrays[f"lengths-{field.name}"],
            AnnIndex.load(folder / f"coarse-{field.name}.faiss", VectorFormat.of(field), len(arrays["rows"])),
        )
        for field in schema.dense
    }
    columns = {
        field.name: COLUMNS[field.kind].restore((_parts(arrays, f"column-{field.name}-"), texts["words"][field.name]))
        for field in schema.metadata
    }
    with_lists = [field.name for field in schema.text] + [field.name for field in schema.sparse]
    postings = {name: Postings(**_parts(arrays, f"postings-{name}-")) for name in with_lists}
    multi_vectors = {
        field.name: MultiVectors(
            TokenVectors(
                _map(folder / f"tokens-{field.name}.npy"),
                arrays[f"tokens-{field.name}"],
                _map(folder / f"scales-{field.name}.npy") if field.stored is TokenType.I8 else None,
            )
        )
        for field in schema.multi_vector
    }
    for fde in fde_fields(schema):
        ann = AnnIndex.load(folder / f"coarse-{fde.name}.faiss", fde.format, len(arrays["rows"]))
        multi_vectors[fde.name] = replace(multi_vectors[fde.name], ann=ann)
    return Block(arrays["rows"], texts["ids"], columns, vectors, postings, multi_vectors, is_segment=True)


def _parts(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _map(path: Path) -> NDArray[Any]:
    """Map an array of a file into memory."""
    # As a plain array: with np.memmap itself every selection takes about 10 us longer.
    return np.asarray(np.load(path, mmap_mode="r"))


def _check(path: Path, expected: Mapping[str, int]) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise DamagedSegment(f"{path}: expected {expected['bytes']:,} bytes, found {size:,}")
    found = crc32(path)
    if found != expected["crc32"]:
        raise DamagedSegment(f"{path}: expected CRC-32 {expected['crc32']:08x}, found {found:08x}")
