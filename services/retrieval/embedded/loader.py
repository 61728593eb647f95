"""What a start does: a collection's view from its newest usable segment and from what the store has beyond it."""

import logging
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.retrieval.domain.schema import ANALYSIS
from services.retrieval.embedded.index.postings import Postings, Terms
from services.retrieval.embedded.index.view import Block, Part, View, block_of, terms_of
from services.retrieval.embedded.storage.row_reader import Reader, Stored
from services.retrieval.embedded.storage.segment_files import Damaged, Segment, load, save_postings, segment_folders

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
    segment = load(path, stored.schema)
    living = reader.rows(stored.key, segment.last_row)
    alive = np.isin(segment.block.rows, living, assume_unique=True)
    if np.count_nonzero(alive) != len(living):
        raise Damaged(f"{path}: expected all {len(living):,} documents of the store, found {np.count_nonzero(alive):,}")
    block = segment.block
    if stored.schema.text and segment.analysis != ANALYSIS:
        block = _analyzed(reader, stored, segment)
        logger.info("words analyzed anew", extra={"collection": stored.name, "documents": len(living)})
        try:
            save_postings(block, path)
        except OSError as error:
            logger.warning("the next start analyzes words again: segment not written: %s", error)
    return Part(block, alive), segment.last_row


def _analyzed(reader: Reader, stored: Stored, segment: Segment) -> Block:
    """The block of a segment with the words of its living documents as they are analyzed now."""
    lists: dict[str, list[Postings]] = {field.name: [] for field in stored.schema.text}
    positions = [np.empty(0, dtype=np.int64)]
    for rows, documents in reader.texts(stored.key, segment.last_row):
        positions.append(np.searchsorted(segment.block.rows, rows))
        for field in stored.schema.text:
            lists[field.name].append(Postings.of(terms_of(field, documents)))
    living, count = np.concatenate(positions), len(segment.block.rows)
    empty = Postings.of(Terms.of([]))
    spread = {name: Postings.joined([empty, *several]).spread(living, count) for name, several in lists.items()}
    return replace(segment.block, postings={**segment.block.postings, **spread})
