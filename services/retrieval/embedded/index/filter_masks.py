"""Evaluation of filters over the columns of blocks, as boolean masks.

Rule: each condition first calls `check`, which raises if nobody waits for the result any more.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from services.core.arrays import I64, Bool
from services.retrieval.domain.filters import (
    AllOf,
    AnyOf,
    Check,
    Comparison,
    Contains,
    Exists,
    Filter,
    Membership,
    NoneOf,
)
from services.retrieval.embedded.index.columns import Column
from services.retrieval.embedded.index.view import View

Columns = Mapping[str, Column]
BlockMasks = Mapping[int, Bool]
"""Where a filter is true in each block, bool[N], by the identity of the block."""


def evaluate(condition: Filter, columns: Columns, check: Check) -> Bool:
    """Return where the condition is true, bool[N], of the N documents in the columns."""
    match condition:
        case AllOf(conditions):
            return _combine(np.logical_and, conditions, columns, check)
        case AnyOf(conditions):
            return _combine(np.logical_or, conditions, columns, check)
        case NoneOf(conditions):
            return ~_combine(np.logical_or, conditions, columns, check)
    check()
    return _evaluate_column(condition, columns[condition.field])


def _evaluate_column(condition: Comparison | Membership | Contains | Exists, column: Column) -> Bool:
    match condition:
        case Comparison(_, operator, value):
            return column.compare(operator, value)
        case Membership():
            return column.is_among(condition.members)
        case Contains(_, value):
            return column.contains(value)
    return column.present


def masks_of(view: View, condition: Filter | None, check: Check) -> list[Bool]:
    """Return bool[N] for each part of a view: the live documents that match. Raises what `check` raises."""
    if condition is None:
        return [part.alive for part in view.parts]
    return live_masks(view, evaluate_blocks(view, condition, check))


def evaluate_blocks(view: View, condition: Filter, check: Check, known: BlockMasks | None = None) -> BlockMasks:
    """Return where the condition is true in each block of a view, and reuse the masks in `known`.

    A mask stays valid when documents die, because blocks never change.
    """
    known = known or {}
    blocks = [part.block for part in view.parts]
    return {id(one): known[id(one)] if id(one) in known else evaluate(condition, one.columns, check) for one in blocks}


def live_masks(view: View, masks: BlockMasks) -> list[Bool]:
    """Return bool[N] for each part of a view: the live documents within the mask of its block."""
    return [part.alive & masks[id(part.block)] for part in view.parts]


def rows_of(view: View, masks: Sequence[Bool]) -> I64:
    """Return the rows of the documents within the masks, one mask per part."""
    selected = [part.block.rows[mask] for part, mask in zip(view.parts, masks, strict=True)]
    return np.concatenate([np.empty(0, dtype=np.int64), *selected])


def _combine(combine: Callable[[Any, Any], Any], conditions: Sequence[Filter], columns: Columns, check: Check) -> Bool:
    """Combine the masks of all conditions. Only two masks are in memory at a time."""
    result: Bool = reduce(combine, (evaluate(condition, columns, check) for condition in conditions))
    return result
