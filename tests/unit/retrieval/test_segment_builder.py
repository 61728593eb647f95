"""Segments: when they are built, what they contain, and what happens to writes during the build."""

from pathlib import Path

import numpy as np
import pytest

from services.retrieval.cancellation import Stopped
from services.retrieval.embedded.index.view import Block, View, block_of
from services.retrieval.embedded.segment_builder import build, compact, is_compact, is_due, segment_of, with_segment
from services.retrieval.embedded.storage.segment_files import load, segment_folders
from tests.unit.retrieval.batches import SCHEMA, batch_of, contents

NOTHING = np.empty(0, dtype=np.int64)


def never() -> bool:
    return False


def block(start: int, count: int) -> Block:
    """Return documents whose ids and numbers are their rows."""
    rows = np.arange(start, start + count, dtype=np.int64)
    return block_of(SCHEMA, rows, batch_of({f"{row:03}": row for row in rows.tolist()}))


def view_with_segment(folder: Path, count: int = 40) -> View:
    view = View(0).apply(1, NOTHING, block(0, count))
    return with_segment(view, *build(view, SCHEMA, folder, never))


def test_a_segment_is_due_at_the_minimum_and_again_after_growth_or_deletions(tmp_path: Path) -> None:
    small = View(0).apply(1, NOTHING, block(0, 39))
    assert not is_due(small, 40)
    assert is_due(small.apply(2, NOTHING, block(39, 1)), 40)
    view = view_with_segment(tmp_path)
    assert not is_due(view, 5)
    assert not is_due(view.apply(2, NOTHING, block(40, 4)), 5)
    assert is_due(view.apply(2, NOTHING, block(40, 5)), 5)
    assert not is_due(view.apply(2, np.arange(20, dtype=np.int64)), 5)
    assert is_due(view.apply(2, np.arange(21, dtype=np.int64)), 5)


def test_a_segment_has_the_documents_of_the_view(tmp_path: Path) -> None:
    view = View(0).apply(1, NOTHING, block(0, 40)).apply(2, np.arange(7, dtype=np.int64))
    segment, last_row = build(view, SCHEMA, tmp_path, never)
    built = with_segment(view, segment, last_row)
    assert contents(built) == contents(view)
    assert (last_row, built.indexed_count, built.dead_count, len(built.parts)) == (39, 33, 0, 1)
    assert segment.vectors["dense"].ann is not None
    assert segment.multi_vectors["half"].ann is not None
    assert segment.multi_vectors["small"].ann is None


def test_a_saved_segment_is_read_as_it_was_built(tmp_path: Path) -> None:
    view = view_with_segment(tmp_path)
    (folder,) = segment_folders(tmp_path)
    found = load(folder, SCHEMA)
    assert found.last_row == 39
    assert contents(with_segment(view, found.block, found.last_row)) == contents(view)


def test_writes_during_the_build_are_kept(tmp_path: Path) -> None:
    before = View(0).apply(1, NOTHING, block(0, 40))
    segment, last_row = build(before, SCHEMA, tmp_path, never)
    # A merge of parts during the build: rows of the segment and newer ones are in one part then.
    during = before.apply(2, np.array([3, 5]), block(40, 30)).apply(3, np.array([6, 41]))
    after = with_segment(during, segment, last_row)
    assert contents(after) == contents(during)
    assert (after.version, after.indexed_count, after.document_count) == (3, 37, 66)


def test_a_segment_grows_and_keeps_its_dead_until_most_are_dead(tmp_path: Path) -> None:
    view = view_with_segment(tmp_path).apply(2, np.arange(10, dtype=np.int64), block(40, 10))
    grown, last_row = build(view, SCHEMA, tmp_path, never)
    assert (len(grown.rows), last_row) == (50, 49)
    assert contents(with_segment(view, grown, last_row)) == contents(view)
    mostly_dead = view.apply(3, np.arange(21, dtype=np.int64))
    rebuilt, _ = build(mostly_dead, SCHEMA, tmp_path, never)
    assert len(rebuilt.rows) == 29


def test_compaction_leaves_one_part_without_dead_documents(tmp_path: Path) -> None:
    view = view_with_segment(tmp_path).apply(2, np.arange(3, dtype=np.int64), block(40, 2))
    assert not is_compact(view, 1000)
    compacted = with_segment(view, *compact(view, SCHEMA, tmp_path, 1000, never))
    assert is_compact(compacted, 1000)
    assert segment_of(compacted) is not None
    assert contents(compacted) == contents(view)
    few = View(0).apply(1, NOTHING, block(0, 8)).apply(2, np.arange(2, dtype=np.int64))
    joined, _ = compact(few, SCHEMA, tmp_path, 1000, never)
    assert (joined.is_segment, len(joined.rows)) == (False, 6)
    assert is_compact(View(3), 1000)


def test_a_stopped_build_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        build(View(0).apply(1, NOTHING, block(0, 40)), SCHEMA, tmp_path, lambda: True)
    assert list(tmp_path.iterdir()) == []
