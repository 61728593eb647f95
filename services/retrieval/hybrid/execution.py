"""Execution of a search: retrieval by the engine, then fusion or grouping."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.retrieval.domain.documents import Document
from services.retrieval.domain.engine_protocol import CollectionReader
from services.retrieval.domain.queries import Found, IsOver
from services.retrieval.hybrid.fusion import FusedRanking, fuse
from services.retrieval.hybrid.grouping import GroupedRanking, GroupSearch
from services.retrieval.hybrid.search_spec import Grouping, SearchSpec


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    found      the candidates of the queries as given
    result     the fused or grouped ranking; None keeps the rankings apart
    documents  all documents of the result, by id
    """

    found: Found
    result: FusedRanking | GroupedRanking | None
    documents: Sequence[Document]


def execute(reader: CollectionReader[Any], spec: SearchSpec, is_over: IsOver, *, max_depth: int) -> SearchResult:
    """Execute a search. If the time is over early, the result contains what was found until then."""
    if spec.grouping is not None:
        return _group(reader, spec, spec.grouping, is_over, max_depth)
    with_documents = spec.with_documents and spec.fusion is None
    found = reader.retrieve(spec.queries, spec.condition, is_over, with_documents=with_documents)
    if spec.fusion is None:
        return SearchResult(found, None, found.documents)
    fused = fuse(found.candidates, spec.fusion)
    fused = replace(fused, ranking=fused.ranking.top(spec.fusion.depth))
    ids = sorted(fused.ranking.ids)
    return SearchResult(found, fused, reader.documents(ids) if spec.with_documents else list(map(Document, ids)))


def _group(
    reader: CollectionReader[Any], spec: SearchSpec, grouping: Grouping, is_over: IsOver, max_depth: int
) -> SearchResult:
    found = GroupSearch(reader, spec, grouping, is_over, max_depth).run()
    ids = sorted(id_ for group in found.ranking.groups for id_ in group.ranking.ids)
    documents = [found.documents[id_] if spec.with_documents else Document(id_) for id_ in ids]
    return SearchResult(found.first, found.ranking, documents)
