"""Search of a view: the candidates of every part, ranked together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.core.selection import top_k
from services.retrieval.dense import DenseQuery
from services.retrieval.filters import Filter
from services.retrieval.index import View
from services.retrieval.late import MultiVectorQuery
from services.retrieval.terms import SparseQuery, TextQuery

Query = DenseQuery | TextQuery | SparseQuery | MultiVectorQuery


@dataclass(frozen=True)
class Staged:
    """A query of those documents alone that earlier queries find: a cascade beside the vectors."""

    among: tuple[Query, ...]
    then: Query


@dataclass(frozen=True)
class Candidates:
    """What was found, best first; equal scores by lower id. In step: ids, the store's rows, float32 scores."""

    ids: Sequence[str]
    rows: I64
    scores: F32


def search(view: View, query: Query | Staged, masks: Sequence[Bool]) -> Candidates:
    """The best documents among those that the masks, one a part, let through."""
    if not isinstance(query, Staged):
        return _best(view, query, masks)
    rows = np.concatenate([_best(view, one, masks).rows for one in query.among])
    found = [mask & np.isin(part.block.rows, rows) for part, mask in zip(view.parts, masks, strict=True)]
    return _best(view, query.then, found)


def _best(view: View, query: Query, masks: Sequence[Bool]) -> Candidates:
    """The best `depth` documents among those that the masks, one a part, let through.

    A query's `scored` gives, for each part, positions and exact scores of at least those that belong here.
    """
    ids: list[str] = []
    rows, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for part, (positions, found) in zip(view.parts, query.scored(view, masks), strict=True):
        ids.extend(part.block.ids[position] for position in positions)
        rows.append(part.block.rows[positions])
        scores.append(found)
    all_scores = np.concatenate(scores)
    best = top_k(all_scores, ids, query.depth)
    return Candidates([ids[position] for position in best], np.concatenate(rows)[best], all_scores[best])


def masks_of(view: View, condition: Filter | None) -> list[Bool]:
    """bool[N] for each part: alive, and matching the condition when there is one."""
    if condition is None:
        return [part.alive for part in view.parts]
    return [part.alive & condition.matches(part.block.columns) for part in view.parts]


def rows_of(view: View, masks: Sequence[Bool]) -> I64:
    """The rows that the masks let through."""
    selected = [part.block.rows[mask] for part, mask in zip(view.parts, masks, strict=True)]
    return np.concatenate([np.empty(0, dtype=np.int64), *selected])
