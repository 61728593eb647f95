"""Reads of one collection: its view, and a transaction of the store at the same version."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.retrieval.domain.documents import Document, page_length
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import CascadeQuery, DenseQuery, Found, IsOver, Query
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.catalog import EmbeddedCollection
from services.retrieval.embedded.index.filter_masks import masks_of, rows_of
from services.retrieval.embedded.search.feedback import rocchio
from services.retrieval.embedded.search.search import search_all
from services.retrieval.embedded.storage.row_reader import RowReader
from services.retrieval.lanes import check

# Rows examined at a time to fill a page when a filter matches few of them.
_PAGE_SCAN_ROWS: Final = 4096


@dataclass(frozen=True)
class EmbeddedReader:
    """A collection at one version. All results are of that version."""

    collection: EmbeddedCollection
    rows: RowReader

    @property
    def schema(self) -> Schema:
        """The fields of the collection."""
        return self.collection.schema

    def retrieve(
        self,
        queries: Sequence[Query | CascadeQuery],
        condition: Filter | None,
        is_over: IsOver,
        *,
        with_documents: bool,
    ) -> Found:
        """Find the candidates of each query, with their whole documents or only their ids.

        If the time is over early, each query returns what it found until then.
        """
        view = self.collection.view
        hits = search_all(view, queries, masks_of(view, condition, check), is_over)
        candidates = [one.candidates for one in hits]
        if with_documents:
            rows = {int(row) for one in hits for row in one.rows}
            return Found(candidates, self.rows.documents(rows), view.version)
        ids = sorted({id_ for one in candidates for id_ in one.ids})
        return Found(candidates, [Document(id_) for id_ in ids], view.version)

    def apply_feedback(self, query: Query | CascadeQuery) -> Query | CascadeQuery:
        """Return the query with its vector moved by its feedback documents."""
        if isinstance(query, CascadeQuery):
            return CascadeQuery(tuple(map(self._apply_feedback, query.among)), self._apply_feedback(query.then))
        return self._apply_feedback(query)

    def _apply_feedback(self, query: Query) -> Query:
        if not isinstance(query, DenseQuery) or not query.feedback:
            return query
        rows = self.rows.rows_by_id(self.collection.key, [id_ for id_, _ in query.feedback])
        return rocchio(query, self.collection.view, rows)

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """Return the documents with these ids in the given order. Unknown ids are skipped."""
        found = self.rows.documents_by_id(self.collection.key, ids)
        by_id = {document.document_id: document for document in found}
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def count(self, condition: Filter | None) -> int:
        """Count the documents that match, or all of them without a filter."""
        view = self.collection.view
        if condition is None:
            return view.document_count
        return sum(int(np.count_nonzero(mask)) for mask in masks_of(view, condition, check))

    def page(self, after: str, size: int, condition: Filter | None) -> tuple[list[Document], bool]:
        """Return up to `size` matching documents with ids above `after`, by id, and whether more follow.

        Returns fewer documents if they are large, but at least one if there is one.
        """
        matching = None
        if condition is not None:
            matching = rows_of(self.collection.view, masks_of(self.collection.view, condition, check))
        rows: list[int] = []
        while len(rows) <= size:
            check()
            listed = self.rows.rows_after(self.collection.key, after, _PAGE_SCAN_ROWS)
            if not listed:
                break
            after = listed[-1][1]
            here = np.array([row for row, _ in listed], dtype=np.int64)
            rows.extend((here if matching is None else here[np.isin(here, matching)]).tolist())
        found = self.rows.documents(rows[:size])
        count = page_length(found)
        return found[:count], len(rows) > count
