"""Search for groups of documents by the value of a metadata field.

Rule: groups are those of one ranking. For a query of one stage, a deeper ranking starts with the shallower one. So the
next round excludes the documents of full groups, and at the end searches only the groups that are not full. Fused
rankings and cascades change with their depth, so there only the deepest ranking counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from services.core.grouping import Group, group_by_value
from services.core.ranking import Ranking
from services.retrieval.domain.documents import Document, Scalar, Value
from services.retrieval.domain.engine_protocol import CollectionReader
from services.retrieval.domain.filters import AllOf, Filter, Membership, NoneOf
from services.retrieval.domain.queries import CascadeQuery, Found, IsOver, Query
from services.retrieval.hybrid.fusion import fuse
from services.retrieval.hybrid.search_spec import Grouping, SearchSpec

# Each round searches this many times deeper, in at most this many rounds.
_DEPTH_FACTOR: Final = 4
_ROUNDS_MAX: Final = 16


@dataclass(frozen=True)
class GroupedRanking:
    """The groups of a ranking.

    is_incomplete  whether the search ended before all groups were full and before all documents were found
    """

    groups: Sequence[Group[Value]]
    coverage: float
    is_incomplete: bool


@dataclass(frozen=True)
class GroupSearchResult:
    """The groups, the candidates of the first round, and all documents that were found, by id."""

    first: Found
    ranking: GroupedRanking
    documents: dict[str, Document]


class GroupSearch:
    """A search for groups in rounds."""

    def __init__(
        self, reader: CollectionReader[Any], spec: SearchSpec, grouping: Grouping, is_over: IsOver, max_depth: int
    ) -> None:
        self._reader = reader
        self._spec = spec
        self._grouping = grouping
        self._is_over = is_over
        self._max_depth = max_depth
        self._has_one_stage = spec.fusion is None and not any(isinstance(one, CascadeQuery) for one in spec.queries)
        self._scores: dict[str, float] = {}
        self._documents: dict[str, Document] = {}
        self._coverage = 1.0

    def run(self) -> GroupSearchResult:
        """Search round by round until the groups are full, nothing is left to find, or the time is over."""
        queries, condition = self._spec.queries, self._spec.condition
        first = found = self._search(queries, condition)
        for number in count(1):
            groups = self._groups()
            is_complete = self._is_full(groups) or self._is_exhausted(queries, found)
            deeper = [_deepen(query, self._max_depth) for query in queries]
            narrower = self._remaining(groups)
            is_stuck = narrower == condition and list(map(_depths, deeper)) == list(map(_depths, queries))
            if is_complete or is_stuck or number == _ROUNDS_MAX or self._is_over():
                break
            queries, condition = deeper, narrower
            found = self._search(queries, condition)
        return GroupSearchResult(first, GroupedRanking(groups, self._coverage, not is_complete), self._documents)

    def _search(self, queries: Sequence[Query | CascadeQuery], condition: Filter | None) -> Found:
        found = self._reader.retrieve(queries, condition, self._is_over, with_documents=True)
        fused = fuse(found.candidates, self._spec.fusion)
        self._documents |= {document.document_id: document for document in found.documents}
        known = self._scores if self._has_one_stage else {}
        self._scores = {**known, **dict(fused.ranking.items())}
        self._coverage = min(self._coverage, fused.coverage)
        return found

    def _groups(self) -> list[Group[Value]]:
        field = self._grouping.field
        pairs = ((id_, self._documents[id_].metadata.get(field)) for id_ in self._scores)
        values = {id_: value for id_, value in pairs if value is not None}
        ranking = Ranking.of(self._scores.items())
        return group_by_value(ranking, values, count=self._grouping.count, size=self._grouping.size)

    def _is_full(self, groups: Sequence[Group[Value]]) -> bool:
        return len(groups) == self._grouping.count and not any(map(self._needs_more, groups))

    def _needs_more(self, group: Group[Value]) -> bool:
        return group.value is not None and len(group.ranking) < self._grouping.size

    def _is_exhausted(self, queries: Sequence[Query | CascadeQuery], found: Found) -> bool:
        """Return whether every query found fewer documents than each of its depths allows, which is all there are."""
        return self._coverage == 1 and all(
            len(one.ids) < min(_depths(query)) for query, one in zip(queries, found.candidates, strict=True)
        )

    def _remaining(self, groups: Sequence[Group[Value]]) -> Filter | None:
        """Return the filter of the next round."""
        if not self._has_one_stage:
            return self._spec.condition
        field = self._grouping.field
        if len(groups) == self._grouping.count:
            return self._and(Membership(field, _values(filter(self._needs_more, groups))))
        full = _values(group for group in groups if not self._needs_more(group))
        return self._and(NoneOf((Membership(field, full),))) if full else self._spec.condition

    def _and(self, condition: Filter) -> Filter:
        given = self._spec.condition
        return condition if given is None else AllOf((given, condition))


def _values(groups: Iterable[Group[Value]]) -> tuple[Scalar, ...]:
    return tuple(group.value for group in groups if group.value is not None and not isinstance(group.value, tuple))


def _depths(query: Query | CascadeQuery) -> list[int]:
    return [one.depth for one in query.queries] if isinstance(query, CascadeQuery) else [query.depth]


def _deepen(query: Query | CascadeQuery, max_depth: int) -> Query | CascadeQuery:
    if isinstance(query, CascadeQuery):
        return CascadeQuery(
            tuple(_deepen_query(one, max_depth) for one in query.among), _deepen_query(query.then, max_depth)
        )
    return _deepen_query(query, max_depth)


def _deepen_query(query: Query, max_depth: int) -> Query:
    return replace(query, depth=min(_DEPTH_FACTOR * query.depth, max_depth))
