"""A view after any writes holds the same documents as a dictionary, and earlier views do not change."""

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.embedded.index.view import Block, View, block_of
from tests.unit.retrieval.batches import SCHEMA, batch_of, content_of, contents

IDS = st.sampled_from([f"d{number}" for number in range(12)])
UPSERTS = st.dictionaries(IDS, st.integers(0, 40), min_size=1)
DELETIONS = st.sets(IDS, min_size=1)
NOTHING = np.empty(0, dtype=np.int64)


def rows_of(view: View, ids: set[str]) -> list[int]:
    return [
        int(part.block.rows[position])
        for part in view.parts
        for position in np.flatnonzero(part.alive)
        if part.block.ids[int(position)] in ids
    ]


def built(model: dict[str, int]) -> dict[str, object]:
    """Return what a block that is built from the model at once holds."""
    block = block_of(SCHEMA, np.arange(len(model), dtype=np.int64), batch_of(model))
    return {id_: content_of(block, position) for position, id_ in enumerate(block.ids)}


@settings(max_examples=40)
@given(st.lists(UPSERTS | DELETIONS, max_size=8))
def test_a_view_equals_a_dictionary(writes: list[dict[str, int] | set[str]]) -> None:
    view, model, next_row = View(0), dict[str, int](), 0
    for version, write in enumerate(writes, start=1):
        before, removed = (view, contents(view)), np.array(sorted(rows_of(view, set(write))), dtype=np.int64)
        if isinstance(write, dict):
            rows = np.arange(next_row, next_row + len(write), dtype=np.int64)
            next_row += len(write)
            view = view.apply(version, removed, block_of(SCHEMA, rows, batch_of(write)))
            model |= write
        else:
            view = view.apply(version, removed)
            model = {id_: number for id_, number in model.items() if id_ not in write}
        assert contents(view) == built(model)
        assert contents(before[0]) == before[1]
        assert (view.version, view.document_count, view.indexed_count) == (version, len(model), 0)
        rows_in_order = [row for part in view.parts for row in part.block.rows.tolist()]
        assert rows_in_order == sorted(set(rows_in_order))


@settings(max_examples=20)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_parts_stay_few_and_shrink_by_half(sizes: list[int]) -> None:
    view, start = View(0), 0
    for version, size in enumerate(sizes, start=1):
        rows = np.arange(start, start + size, dtype=np.int64)
        start += size
        view = view.apply(version, NOTHING, block_of(SCHEMA, rows, batch_of({f"{row}": row for row in rows.tolist()})))
        counts = [part.count for part in view.parts]
        assert all(older >= 2 * newer for older, newer in pairwise(counts))
        assert len(counts) <= 1 + math.log2(start)


def test_mostly_dead_parts_are_rewritten() -> None:
    rows = np.arange(10, dtype=np.int64)
    view = View(0).apply(1, NOTHING, block_of(SCHEMA, rows, batch_of({f"{row}": row for row in range(10)})))
    kept = view.apply(2, np.arange(5, dtype=np.int64))
    assert (kept.dead_count, len(kept.parts[0].alive)) == (5, 10)
    rewritten = view.apply(2, np.arange(6, dtype=np.int64))
    assert (rewritten.dead_count, len(rewritten.parts[0].alive)) == (0, 4)
    assert view.apply(2, np.arange(10, dtype=np.int64)).parts == ()


@settings(max_examples=30)
@given(UPSERTS, UPSERTS)
def test_concatenate_and_take_are_inverse(first: dict[str, int], second: dict[str, int]) -> None:
    blocks = [
        block_of(SCHEMA, np.arange(len(one), dtype=np.int64) + start, batch_of(one))
        for one, start in ((first, 0), (second, len(first)))
    ]
    joined = Block.concatenate(blocks)
    halves = np.split(np.arange(len(first) + len(second), dtype=np.int64), [len(first)])
    for block, half in zip(blocks, halves, strict=True):
        taken = joined.take(half)
        assert (taken.ids, taken.rows.tolist()) == (list(block.ids), block.rows.tolist())
        assert [content_of(taken, at) for at in range(len(half))] == [content_of(block, at) for at in range(len(half))]
