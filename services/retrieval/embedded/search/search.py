"""Search of a view: the candidates of every part, ranked together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.core.arrays import F32, I64, Bool
from services.core.selection import top_k
from services.retrieval.domain.filters import Check, Filter
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search.dense import DenseQuery
from services.retrieval.embedded.search.late_interaction import MultiVectorQuery
from services.retrieval.embedded.search.lexical import SparseQuery, TextQuery
from services.retrieval.embedded.search.scoring import IsOver, Scorer

Query = DenseQuery | TextQuery | SparseQuery | MultiVectorQuery


@dataclass(frozen=True)
class Staged:
    """A query of those documents alone that earlier queries find: a cascade beside the vectors."""

    among: tuple[Query, ...]
    then: Query


@dataclass(frozen=True)
class Candidates:
    """What was found, best first; equal scores by lower id. In step: ids, the store's rows, float32 scores.

    coverage  share of the documents that were looked at; 1 unless the time was over before the end
    """

    ids: Sequence[str]
    rows: I64
    scores: F32
    coverage: float


def search(view: View, query: Query | Staged, masks: Sequence[Bool], is_over: IsOver) -> Candidates:
    """The best documents among those that the masks, one a part, let through; what was found when the time is over."""
    if not isinstance(query, Staged):
        return _best(view, query, masks, is_over)
    first = [_best(view, one, masks, is_over) for one in query.among]
    rows = np.concatenate([found.rows for found in first])
    found = [mask & np.isin(part.block.rows, rows) for part, mask in zip(view.parts, masks, strict=True)]
    then = _best(view, query.then, found, is_over)
    return replace(then, coverage=min(then.coverage, *(found.coverage for found in first)))


def _best(view: View, query: Scorer, masks: Sequence[Bool], is_over: IsOver) -> Candidates:
    """As `search`, of one query. At least one piece of the work is done."""
    ids: list[str] = []
    rows, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    covered, total = 0, sum(part.passing(mask) for part, mask in zip(view.parts, masks, strict=True))
    for piece in query.pieces(view, masks):
        ids.extend(piece.part.block.ids[position] for position in piece.positions)
        rows.append(piece.part.block.rows[piece.positions])
        scores.append(piece.scores)
        covered += piece.covered
        # Asked after every piece: it raises when nobody waits any more.
        if is_over() and covered:
            break
    all_scores = np.concatenate(scores)
    best = top_k(all_scores, ids, query.depth)
    coverage = covered / total if total else 1.0
    return Candidates([ids[position] for position in best], np.concatenate(rows)[best], all_scores[best], coverage)


def masks_of(view: View, condition: Filter | None, check: Check) -> list[Bool]:
    """bool[N] for each part: alive, and matching the condition when there is one. Raises what `check` raises."""
    if condition is None:
        return [part.alive for part in view.parts]
    found = matching(view, condition, check)
    return [part.alive & found[id(part.block)] for part in view.parts]


def matching(view: View, condition: Filter, check: Check, known: Mapping[int, Bool] | None = None) -> dict[int, Bool]:
    """Return where the condition is true in each block, by the block's identity; `known` ones are not evaluated again.

    Blocks never change, so what was found in one stays true when documents in it have died.
    """
    known = known or {}
    blocks = [part.block for part in view.parts]
    return {id(one): known[id(one)] if id(one) in known else condition.matches(one.columns, check) for one in blocks}


def rows_of(view: View, masks: Sequence[Bool]) -> I64:
    """The rows that the masks let through."""
    selected = [part.block.rows[mask] for part, mask in zip(view.parts, masks, strict=True)]
    return np.concatenate([np.empty(0, dtype=np.int64), *selected])
