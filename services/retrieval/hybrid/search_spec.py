"""The specification of a search: queries, filter, fusion and grouping."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import CascadeQuery, Query
from services.retrieval.hybrid.fusion import Fusion


@dataclass(frozen=True)
class Grouping:
    """The best `count` groups by a metadata field, with up to `size` documents each."""

    field: str
    count: int
    size: int


@dataclass(frozen=True)
class SearchSpec:
    """A search of one or more queries. Grouping several queries requires a fusion."""

    queries: Sequence[Query | CascadeQuery]
    condition: Filter | None
    with_documents: bool
    fusion: Fusion | None = None
    grouping: Grouping | None = None
