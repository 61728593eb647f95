"""Several rankings made one, and documents in groups: above the engines, by what every one of them can do.

Rule: groups are those of one ranking. Of a query of one stage a deeper ranking begins as the one before, whatever is
left out: so documents of full groups are left out of the further search, and at last only groups that lack some are
searched. What is fused or found among candidates changes with its depth: there the deepest ranking counts alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

import numpy as np

from services.core.fusion import Normalization, rrf, weighted_sum
from services.core.grouping import Group, group_by_value
from services.core.ranking import Ranking
from services.retrieval.domain.documents import Document, Scalar, Value
from services.retrieval.domain.engine_protocol import Moment
from services.retrieval.domain.filters import AllOf, Filter, Membership, NoneOf
from services.retrieval.embedded.reader import Found
from services.retrieval.embedded.search.scoring import IsOver
from services.retrieval.embedded.search.search import Candidates, Query, Staged

# A search for groups goes this many times deeper each time, and at most this many times.
_DEEPER: Final = 4
_ROUNDS_MAX: Final = 16


@dataclass(frozen=True)
class Rrf:
    """Fusion by rank."""

    constant: float

    def fused(self, rankings: Sequence[Ranking]) -> Ranking:
        """The rankings as one."""
        return rrf(rankings, constant=self.constant)


@dataclass(frozen=True)
class WeightedSum:
    """Fusion by normalised scores; one weight a ranking."""

    weights: Sequence[float]
    normalisation: Normalization

    def fused(self, rankings: Sequence[Ranking]) -> Ranking:
        """The rankings as one."""
        return weighted_sum(rankings, self.weights, self.normalisation)


@dataclass(frozen=True)
class Fusion:
    """How rankings become one, and how many documents that has at most."""

    method: Rrf | WeightedSum
    depth: int


@dataclass(frozen=True)
class Grouping:
    """The best `count` groups by a metadata field, with up to `size` documents each."""

    field: str
    count: int
    size: int


@dataclass(frozen=True)
class Asked:
    """What a search asks for. A grouping of several queries comes with a fusion."""

    queries: Sequence[Query | Staged]
    condition: Filter | None
    with_documents: bool
    fusion: Fusion | None = None
    grouping: Grouping | None = None


@dataclass(frozen=True)
class Fused:
    """One ranking of all queries, and the least coverage of theirs."""

    ranking: Ranking
    coverage: float


@dataclass(frozen=True)
class Grouped:
    """Groups. Incomplete when the search ended before they were full and before there was nothing more to find."""

    groups: Sequence[Group[Value]]
    coverage: float
    is_incomplete: bool


@dataclass(frozen=True)
class Answer:
    """What a search found.

    found      what the engine found for the queries as they were asked
    result     what becomes of it; None leaves the rankings apart
    documents  every document of the result, by id
    """

    found: Found
    result: Fused | Grouped | None
    documents: Sequence[Document]


def answer(moment: Moment[Any], asked: Asked, is_over: IsOver, *, max_depth: int) -> Answer:
    """The answer to a search. When the time is over, what was found until then."""
    if asked.grouping is not None:
        return _Groups(moment, asked, asked.grouping, is_over, max_depth).answer()
    with_documents = asked.with_documents and asked.fusion is None
    found = moment.retrieve(asked.queries, asked.condition, is_over, with_documents=with_documents)
    if asked.fusion is None:
        return Answer(found, None, found.documents)
    fused = _fused(found.candidates, asked.fusion)
    fused = replace(fused, ranking=fused.ranking.top(asked.fusion.depth))
    ids = sorted(fused.ranking.ids)
    return Answer(found, fused, moment.documents(ids) if asked.with_documents else list(map(Document, ids)))


def _fused(several: Sequence[Candidates], fusion: Fusion | None) -> Fused:
    """All candidates as one ranking; scores as they are sent, so that equal ones are in order of id."""
    rankings = [Ranking.of(zip(one.ids, one.scores.tolist(), strict=True)) for one in several]
    ranking = rankings[0] if fusion is None else fusion.method.fused(rankings)
    sent = Ranking.of((id_, float(np.float32(score))) for id_, score in ranking.items())
    return Fused(sent, min(one.coverage for one in several))


class _Groups:
    """The search for groups, round by round."""

    def __init__(self, moment: Moment[Any], asked: Asked, grouping: Grouping, is_over: IsOver, max_depth: int) -> None:
        self._moment = moment
        self._asked = asked
        self._grouping = grouping
        self._is_over = is_over
        self._max_depth = max_depth
        self._has_one_stage = asked.fusion is None and not any(isinstance(query, Staged) for query in asked.queries)
        self._scores: dict[str, float] = {}
        self._documents: dict[str, Document] = {}
        self._coverage = 1.0

    def answer(self) -> Answer:
        """The groups, with their documents."""
        queries, condition = self._asked.queries, self._asked.condition
        first = found = self._search(queries, condition)
        for number in count(1):
            groups = self._groups()
            is_complete = self._is_full(groups) or self._is_exhausted(queries, found)
            deeper = [_deeper(query, self._max_depth) for query in queries]
            narrower = self._remaining(groups)
            is_stuck = narrower == condition and list(map(_depths, deeper)) == list(map(_depths, queries))
            if is_complete or is_stuck or number == _ROUNDS_MAX or self._is_over():
                break
            queries, condition = deeper, narrower
            found = self._search(queries, condition)
        result = Grouped(groups, self._coverage, not is_complete)
        ids = sorted(id_ for group in groups for id_ in group.ranking.ids)
        whole = self._asked.with_documents
        return Answer(first, result, [self._documents[id_] if whole else Document(id_) for id_ in ids])

    def _search(self, queries: Sequence[Query | Staged], condition: Filter | None) -> Found:
        found = self._moment.retrieve(queries, condition, self._is_over, with_documents=True)
        fused = _fused(found.candidates, self._asked.fusion)
        self._documents |= {document.document_id: document for document in found.documents}
        known = self._scores if self._has_one_stage else {}
        self._scores = {**known, **dict(fused.ranking.items())}
        self._coverage = min(self._coverage, fused.coverage)
        return found

    def _groups(self) -> list[Group[Value]]:
        field = self._grouping.field
        given = ((id_, self._documents[id_].metadata.get(field)) for id_ in self._scores)
        values = {id_: value for id_, value in given if value is not None}
        ranking = Ranking.of(self._scores.items())
        return group_by_value(ranking, values, count=self._grouping.count, size=self._grouping.size)

    def _is_full(self, groups: Sequence[Group[Value]]) -> bool:
        return len(groups) == self._grouping.count and not any(map(self._lacks, groups))

    def _lacks(self, group: Group[Value]) -> bool:
        return group.value is not None and len(group.ranking) < self._grouping.size

    def _is_exhausted(self, queries: Sequence[Query | Staged], found: Found) -> bool:
        """Whether every query found all there is for it: fewer than any depth on the way would have let through."""
        return self._coverage == 1 and all(
            len(one.ids) < min(_depths(query)) for query, one in zip(queries, found.candidates, strict=True)
        )

    def _remaining(self, groups: Sequence[Group[Value]]) -> Filter | None:
        """What the next round looks at."""
        if not self._has_one_stage:
            return self._asked.condition
        field = self._grouping.field
        if len(groups) == self._grouping.count:
            return self._also(Membership(field, _values(filter(self._lacks, groups))))
        full = _values(group for group in groups if not self._lacks(group))
        return self._also(NoneOf((Membership(field, full),))) if full else self._asked.condition

    def _also(self, condition: Filter) -> Filter:
        given = self._asked.condition
        return condition if given is None else AllOf((given, condition))


def _values(groups: Iterable[Group[Value]]) -> tuple[Scalar, ...]:
    return tuple(group.value for group in groups if group.value is not None and not isinstance(group.value, tuple))


def _depths(query: Query | Staged) -> list[int]:
    return [one.depth for one in (*query.among, query.then)] if isinstance(query, Staged) else [query.depth]


def _deeper(query: Query | Staged, most: int) -> Query | Staged:
    if isinstance(query, Staged):
        return Staged(tuple(_deepened(one, most) for one in query.among), _deepened(query.then, most))
    return _deepened(query, most)


def _deepened(query: Query, most: int) -> Query:
    return replace(query, depth=min(_DEEPER * query.depth, most))
