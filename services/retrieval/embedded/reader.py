"""Reading a collection as it is at one moment: its view, and the store in a transaction of the same version."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.retrieval.domain.documents import Document
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.catalog import Collection
from services.retrieval.embedded.search.dense import DenseQuery, together
from services.retrieval.embedded.search.feedback import moved
from services.retrieval.embedded.search.scoring import IsOver
from services.retrieval.embedded.search.search import Candidates, Query, Staged, masks_of, rows_of, search
from services.retrieval.embedded.storage.row_reader import Reader
from services.retrieval.lanes import check

# Characters of text in one page, so that it fits into a message of the default limit, 16 MiB.
_PAGE_BYTES: Final = 4 * 2**20
# Rows looked at to fill a page when a filter lets few of them through.
_LISTED: Final = 4096


@dataclass(frozen=True)
class Found:
    """Candidates of each query, every document among them by id, and the version they are of."""

    candidates: Sequence[Candidates]
    documents: Sequence[Document]
    version: int


@dataclass(frozen=True)
class Moment:
    """A collection at one moment. Every answer is of the same version."""

    collection: Collection
    reader: Reader

    @property
    def schema(self) -> Schema:
        """What the collection holds."""
        return self.collection.schema

    def retrieve(
        self, queries: Sequence[Query | Staged], condition: Filter | None, is_over: IsOver, *, with_documents: bool
    ) -> Found:
        """Candidates of each query, with their documents when asked for, or else with their ids.

        When the time is over, each query ends early with what it found.
        """
        view = self.collection.view
        masks = masks_of(view, condition, check)
        candidates = [search(view, query, masks, is_over) for query in together(queries, view, masks)]
        if with_documents:
            rows = {int(row) for found in candidates for row in found.rows}
            return Found(candidates, self.reader.documents(rows), view.version)
        ids = sorted({id_ for found in candidates for id_ in found.ids})
        return Found(candidates, [Document(id_) for id_ in ids], view.version)

    def fed_back(self, query: Query | Staged) -> Query | Staged:
        """The query, its vector moved by the documents of its feedback."""
        if isinstance(query, Staged):
            among = tuple(self._moved(one) for one in query.among)
            return Staged(among, self._moved(query.then))
        return self._moved(query)

    def _moved(self, query: Query) -> Query:
        if not isinstance(query, DenseQuery) or not query.feedback:
            return query
        rows = self.reader.rows_by_id(self.collection.key, [id_ for id_, _ in query.feedback])
        return moved(query, self.collection.view, rows)

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids, in their order; unknown ones left out."""
        found = self.reader.documents_by_id(self.collection.key, ids)
        by_id = {document.document_id: document for document in found}
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def count(self, condition: Filter | None) -> int:
        """Documents that match; all when there is no filter."""
        view = self.collection.view
        if condition is None:
            return view.document_count
        return sum(int(np.count_nonzero(mask)) for mask in masks_of(view, condition, check))

    def page(self, after: str, size: int, condition: Filter | None) -> tuple[list[Document], bool]:
        """Up to `size` documents with ids above `after` that match, by id; and whether there are more.

        Fewer when they are large; at least one when there is one.
        """
        matching = None
        if condition is not None:
            matching = rows_of(self.collection.view, masks_of(self.collection.view, condition, check))
        rows: list[int] = []
        while len(rows) <= size:
            check()
            listed = self.reader.rows_after(self.collection.key, after, _LISTED)
            if not listed:
                break
            after = listed[-1][1]
            here = np.array([row for row, _ in listed], dtype=np.int64)
            rows.extend((here if matching is None else here[np.isin(here, matching)]).tolist())
        found = self.reader.documents(rows[:size])
        count = fitting(found)
        return found[:count], len(rows) > count


def fitting(found: Sequence[Document]) -> int:
    """How many of the documents fit into one page: one, if it is large, or more."""
    sizes = np.cumsum([len(one.text) + len(one.title) for one in found])
    return max(1, int(np.count_nonzero(sizes <= _PAGE_BYTES)))
