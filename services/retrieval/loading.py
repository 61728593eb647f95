"""What a start does: a collection's view from its newest usable segment and from what the store has beyond it."""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from services.retrieval.index import Block, Part, View, block_of
from services.retrieval.reader import Reader, Stored
from services.retrieval.segments import Damaged, load, segment_folders

logger = logging.getLogger(__name__)


def load_view(reader: Reader, stored: Stored, folder: Path) -> View:
    """The view of a collection. A segment that cannot be used is left out: the store has everything."""
    parts, after = [], 0
    for path in segment_folders(folder):
        try:
            part, after = _part(reader, stored, path)
        except Damaged as error:
            logger.warning("segment not used, and built again: %s", error)
            continue
        parts.append(part)
        break
    blocks = [
        block_of(stored.schema, chunk.rows, chunk.batch) for chunk in reader.load(stored.key, stored.schema, after)
    ]
    newer = Block.joined(blocks) if blocks else None
    nothing = np.empty(0, dtype=np.int64)
    return View(stored.version, tuple(parts)).after(stored.version, nothing, newer)


def remove_others(folder: Path, last_row: int | None) -> None:
    """Remove the segments of a collection, and drafts of such, but for the one up to that row."""
    _remove(folder, {str(last_row)})


def remove_leftovers(folder: Path, keys: Collection[str]) -> None:
    """Remove the segments of collections that are gone, and drafts that a killed process left."""
    _remove(folder, keys)
    for draft in folder.glob("*/*.draft"):
        shutil.rmtree(draft, ignore_errors=True)


def _remove(folder: Path, kept: Collection[str]) -> None:
    for path in folder.glob("*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _part(reader: Reader, stored: Stored, path: Path) -> tuple[Part, int]:
    """A segment with those of its documents that are still in the store, and its last row. Raises Damaged."""
    block, last_row = load(path, stored.schema)
    living = reader.rows(stored.key, last_row)
    alive = np.isin(block.rows, living, assume_unique=True)
    if np.count_nonzero(alive) != len(living):
        raise Damaged(f"{path}: expected all {len(living):,} documents of the store, found {np.count_nonzero(alive):,}")
    return Part(block, alive), last_row
