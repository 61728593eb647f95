"""Loads a collection at start: its newest usable segment, and the documents of the store that are not in it."""

import logging
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.retrieval.domain.collections import CollectionRecord
from services.retrieval.domain.schema import ANALYSIS_VERSION
from services.retrieval.domain.vectors import Terms
from services.retrieval.embedded.index.postings import Postings
from services.retrieval.embedded.index.view import Block, LiveBlock, View, block_of, terms_of
from services.retrieval.embedded.storage.row_reader import RowReader
from services.retrieval.embedded.storage.segment_files import (
    DamagedSegment,
    Segment,
    load,
    save_postings,
    segment_folders,
)

logger = logging.getLogger(__name__)


def load_view(reader: RowReader, record: CollectionRecord, folder: Path) -> View:
    """Load the view of a collection. Unusable segments are skipped, because the store has all documents."""
    parts, after = [], 0
    for path in segment_folders(folder):
        try:
            part, after = _load_segment(reader, record, path)
        except DamagedSegment as error:
            logger.warning("segment skipped; it will be rebuilt: %s", error)
            continue
        parts.append(part)
        break
    blocks = [
        block_of(record.schema, chunk.rows, chunk.batch) for chunk in reader.load(record.key, record.schema, after)
    ]
    newer = Block.concatenate(blocks) if blocks else None
    nothing = np.empty(0, dtype=np.int64)
    return View(record.version, tuple(parts)).apply(record.version, nothing, newer)


def remove_other_segments(folder: Path, last_row: int | None) -> None:
    """Remove a collection's segments and drafts, except the segment up to `last_row`."""
    _remove_except(folder, {str(last_row)})


def remove_leftovers(folder: Path, keys: Collection[str]) -> None:
    """Remove segments of collections that no longer exist, and drafts of a process that was killed."""
    _remove_except(folder, keys)
    for draft in folder.glob("*/*.draft"):
        shutil.rmtree(draft, ignore_errors=True)


def _remove_except(folder: Path, kept: Collection[str]) -> None:
    for path in folder.glob("*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _load_segment(reader: RowReader, record: CollectionRecord, path: Path) -> tuple[LiveBlock, int]:
    """Load a segment, and mark the documents that are no longer in the store as dead. Raises DamagedSegment."""
    segment = load(path, record.schema)
    living = reader.rows(record.key, segment.last_row)
    alive = np.isin(segment.block.rows, living, assume_unique=True)
    if np.count_nonzero(alive) != len(living):
        found = np.count_nonzero(alive)
        raise DamagedSegment(f"{path}: expected all {len(living):,} documents of the store, found {found:,}")
    block = segment.block
    if record.schema.text and segment.analysis != ANALYSIS_VERSION:
        block = _reanalyze(reader, record, segment)
        logger.info("words analyzed again", extra={"collection": record.name, "documents": len(living)})
        try:
            save_postings(block, path)
        except OSError as error:
            logger.warning("segment not updated: %s; the next start analyzes its words again", error)
    return LiveBlock(block, alive), segment.last_row


def _reanalyze(reader: RowReader, record: CollectionRecord, segment: Segment) -> Block:
    """Return the block of a segment with its live documents analyzed by the current version of text analysis."""
    lists: dict[str, list[Postings]] = {field.name: [] for field in record.schema.text}
    positions = [np.empty(0, dtype=np.int64)]
    for rows, documents in reader.texts(record.key, segment.last_row):
        positions.append(np.searchsorted(segment.block.rows, rows))
        for field in record.schema.text:
            lists[field.name].append(Postings.of(terms_of(field, documents)))
    living, count = np.concatenate(positions), len(segment.block.rows)
    empty = Postings.of(Terms.of([]))
    spread = {name: Postings.concatenate([empty, *parts]).spread(living, count) for name, parts in lists.items()}
    return replace(segment.block, postings={**segment.block.postings, **spread})
