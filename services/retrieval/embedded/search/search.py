"""Search of a view: scores the documents of every part and ranks the best ones together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.core.arrays import I64, Bool
from services.core.selection import top_k
from services.retrieval.domain.queries import (
    Candidates,
    CascadeQuery,
    DenseQuery,
    IsOver,
    MultiVectorQuery,
    Query,
    SparseQuery,
    TextQuery,
)
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search import dense, late_interaction, lexical
from services.retrieval.embedded.search.dense import Prefetch, prefetch_candidates
from services.retrieval.embedded.search.scoring import ScoredChunk


@dataclass(frozen=True)
class Hits:
    """The candidates of a query, and the row of each in the store, int64[K]."""

    candidates: Candidates
    rows: I64


def search_all(
    view: View, queries: Sequence[Query | CascadeQuery], masks: Sequence[Bool], is_over: IsOver
) -> list[Hits]:
    """Search several queries over the documents within the masks, one mask per part."""
    prefetched = prefetch_candidates(queries, view, masks)
    return [search(view, query, masks, is_over, prefetched.get(index)) for index, query in enumerate(queries)]


def search(
    view: View,
    query: Query | CascadeQuery,
    masks: Sequence[Bool],
    is_over: IsOver,
    prefetch: Prefetch | None = None,
) -> Hits:
    """Return the best documents within the masks. If the time is over early, return what was found until then."""
    if not isinstance(query, CascadeQuery):
        return _best(view, query, masks, is_over, prefetch)
    first = [_best(view, one, masks, is_over) for one in query.among]
    rows = np.concatenate([hits.rows for hits in first])
    among = [mask & np.isin(part.block.rows, rows) for part, mask in zip(view.parts, masks, strict=True)]
    last = _best(view, query.then, among, is_over)
    coverage = min(hits.candidates.coverage for hits in (last, *first))
    return replace(last, candidates=replace(last.candidates, coverage=coverage))


def _best(view: View, query: Query, masks: Sequence[Bool], is_over: IsOver, prefetch: Prefetch | None = None) -> Hits:
    """Search one query. Scores at least one chunk."""
    ids: list[str] = []
    rows, scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    covered, total = 0, sum(part.count_within(mask) for part, mask in zip(view.parts, masks, strict=True))
    for chunk in _score_in_chunks(view, query, masks, prefetch):
        ids.extend(chunk.part.block.ids[position] for position in chunk.positions)
        rows.append(chunk.part.block.rows[chunk.positions])
        scores.append(chunk.scores)
        covered += chunk.covered
        # Called after every chunk, because it raises if nobody waits for the result any more.
        if is_over() and covered:
            break
    all_scores = np.concatenate(scores)
    best = top_k(all_scores, ids, query.depth)
    coverage = covered / total if total else 1.0
    return Hits(
        Candidates([ids[position] for position in best], all_scores[best], coverage), np.concatenate(rows)[best]
    )


def _score_in_chunks(
    view: View, query: Query, masks: Sequence[Bool], prefetch: Prefetch | None
) -> Iterator[ScoredChunk]:
    match query:
        case DenseQuery():
            return dense.score_in_chunks(query, view, masks, prefetch)
        case TextQuery():
            return lexical.score_text(query, view, masks)
        case SparseQuery():
            return lexical.score_sparse(query, view, masks)
        case MultiVectorQuery():
            return late_interaction.score_in_chunks(query, view, masks)
