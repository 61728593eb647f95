"""Reads of one collection in Milvus."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from sluice.errors import InvalidRequest, Violation

from services.core.arrays import F32
from services.core.selection import top_k
from services.core.similarity import cosine, dot, l2
from services.retrieval.domain.documents import Document, page_length
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import (
    Candidates,
    CascadeQuery,
    DenseQuery,
    Found,
    IsOver,
    Query,
    SparseQuery,
    TextQuery,
)
from services.retrieval.domain.schema import Metric, Schema
from services.retrieval.milvus import fields, rows
from services.retrieval.milvus.collections import MilvusCollection
from services.retrieval.milvus.connection import STRONG, Connection
from services.retrieval.milvus.expressions import Expressions, both, ids_after, ids_in

R = TypeVar("R")

# Results fetched beyond the depth, so that equal scores at the end are ordered by id.
_EXTRA: Final = 16
# Limit of vector elements that a search returns. pymilvus makes Python objects of them, about 70 MB at this limit. A
# depth of 1,000 with 2,048 dimensions is just within it.
_NUMBERS_MAX: Final = 1016 * 2048
_SIMILARITIES: Final = {Metric.COSINE: cosine, Metric.DOT: dot, Metric.L2: l2}


@dataclass(frozen=True)
class Hits:
    """The candidates of one search and the requested parts of their documents."""

    candidates: Candidates
    documents: Sequence[Document]


class MilvusReader:
    """Reads a collection. Each read sees all earlier writes; other callers may write between two reads."""

    def __init__(self, connection: Connection, collection: MilvusCollection, executor: Executor) -> None:
        self._connection = connection
        self._executor = executor
        self.collection = collection
        self._expressions = Expressions(collection.schema, has_membership=connection.version.has_membership)

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
        """Find the candidates of all queries concurrently, with their whole documents or only their ids.

        Raises InvalidRequest for an exact search of an approximate index.
        """
        self._check(queries)
        expression = self._expressions.of(condition)
        output = fields.DOCUMENT if with_documents else (fields.ID,)
        version = self._submit(lambda: self.collection.version)
        hits = [self._submit(partial(self._search, query, expression, output)) for query in queries]
        found = [one() for one in hits]
        documents = {document.document_id: document for one in found for document in one.documents}
        return Found([one.candidates for one in found], [documents[id_] for id_ in sorted(documents)], version())

    def apply_feedback(self, query: Query | CascadeQuery) -> Query | CascadeQuery:
        """Return the query unchanged. Raises InvalidRequest if it has feedback, which needs stored vectors."""
        if any(isinstance(one, DenseQuery) and one.feedback for one in _parts(query)):
            description = "expected none: the Milvus engine does not support feedback"
            raise InvalidRequest(f"feedback: {description}", violations=[Violation("feedback", description)])
        return query

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """Return the documents with these ids in the given order. Unknown ids are skipped."""
        found = self.query(ids_in(ids), fields.DOCUMENT)
        by_id = {row[fields.ID]: rows.document_of(row) for row in found}
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def count(self, condition: Filter | None) -> int:
        """Count the documents that match, or all of them without a filter."""
        return self.count_of(self._expressions.of(condition))

    def page(self, after: str, size: int, condition: Filter | None) -> tuple[list[Document], bool]:
        """Return up to `size` matching documents with ids above `after`, by id, and whether more follow.

        Returns fewer documents if they are large, but at least one if there is one.
        """
        expression = both(ids_after(after), self._expressions.of(condition))
        # Only for a query of an iterator, Milvus returns the lowest ids instead of any.
        ordered = {"iterator": "True", "reduce_stop_for_best": "True"}
        listed = self.query(expression, fields.DOCUMENT, limit=size + 1, **ordered)
        found = sorted(map(rows.document_of, listed), key=lambda document: document.document_id)
        count = page_length(found[:size])
        return found[:count], len(found) > count

    def matching(self, chosen: Sequence[str] | Filter) -> str:
        """Return the expression for documents chosen by id or by a filter."""
        return ids_in(chosen) if isinstance(chosen, Sequence) else self._expressions.of(chosen)

    def count_of(self, expression: str) -> int:
        """Count the documents for which the expression is true, or all if it is empty."""
        (counted,) = self.query(expression, ("count(*)",))
        return int(counted["count(*)"])

    def query(self, expression: str, output: Iterable[str], **named: Any) -> list[Mapping[str, Any]]:
        """Return the rows for which the expression is true."""
        return list(
            self._connection.call(
                "query",
                self.collection.milvus_name,
                filter=expression,
                output_fields=list(output),
                consistency_level=STRONG,
                **named,
            )
        )

    def _check(self, queries: Sequence[Query | CascadeQuery]) -> None:
        if self.collection.dense_index == "FLAT":
            return
        exact = [one for query in queries for one in _parts(query) if isinstance(one, DenseQuery) and one.is_exact]
        if exact:
            description = (
                f"expected false: field {exact[0].field.name!r} has an HNSW index in Milvus, which is approximate;"
                " collections created with --milvus-index FLAT support exact searches"
            )
            raise InvalidRequest(f"exact: {description}", violations=[Violation("exact", description)])

    def _search(self, query: Query | CascadeQuery, expression: str, output: Sequence[str]) -> Hits:
        if not isinstance(query, CascadeQuery):
            return self._best(query, expression, output)
        first = [self._best(one, expression, (fields.ID,)) for one in query.among]
        ids = sorted({id_ for hits in first for id_ in hits.candidates.ids})
        return self._best(query.then, both(ids_in(ids), expression), output) if ids else _NONE

    def _best(self, query: Query, expression: str, output: Sequence[str]) -> Hits:
        arguments = _search_arguments(query, self.collection.dense_index)
        if arguments is None:
            return _NONE
        data, parameters = arguments
        vectors = (query.field.name,) if is_rescored(query) else ()
        (found,) = self._connection.call(
            "search",
            self.collection.milvus_name,
            data=[data],
            anns_field=query.field.name,
            filter=expression,
            limit=min(query.depth + _EXTRA, fields.LIMIT_MAX) if vectors else query.depth,
            output_fields=[*output, *vectors],
            search_params=parameters,
            consistency_level=STRONG,
        )
        return hits_of(query, found)

    def _submit(self, work: Callable[[], R]) -> Callable[[], R]:
        """Start the work in another thread with the deadline of this one, and return a function that waits for it."""
        return self._executor.submit(copy_context().run, work).result


def _parts(query: Query | CascadeQuery) -> Sequence[Query]:
    return query.queries if isinstance(query, CascadeQuery) else (query,)


def _search_arguments(query: Query, dense_index: str) -> tuple[Any, dict[str, Any]] | None:
    """Return the data and the parameters of a search; None if the query is empty."""
    match query:
        case DenseQuery():
            return query.vector.tolist(), fields.search_parameters(query.field, dense_index, query.depth)
        case TextQuery():
            text = rows.words(np.repeat(query.keys, query.counts))
            return (text, {"metric_type": "BM25", "params": {}}) if text else None
        case SparseQuery():
            if (query.weights < 0).any():
                description = f"expected weights of at least 0 with Milvus, got {query.weights.min():g}"
                raise InvalidRequest(f"sparse: {description}", violations=[Violation("sparse", description)])
            vector = rows.sparse_vector(query.keys, query.weights)
            return (vector, {"metric_type": "IP", "params": {}}) if vector else None
    raise AssertionError("collections in Milvus have no multi-vector fields")


def is_rescored(query: Query) -> bool:
    """Return whether scores are computed here, from vectors that Milvus returns.

    Milvus sums products in float32, in an order that depends on the storage of the vector, so scores of equal vectors
    differ in their last bits. Rounding cannot fix that, because two close scores may be on both sides of any boundary.
    Scores computed here depend on the query and the document only.
    """
    if not isinstance(query, DenseQuery):
        return False
    return (query.depth + _EXTRA) * query.field.dimensions <= _NUMBERS_MAX


def hits_of(query: Query, found: Sequence[Mapping[str, Any]]) -> Hits:
    """Return the results of a search with scores of Sluice, best first. Equal scores are ordered by id."""
    scores = _scores(query, found)
    documents = [rows.document_of(hit["entity"]) for hit in found]
    ids = [document.document_id for document in documents]
    best = top_k(scores, ids, query.depth)
    candidates = Candidates([ids[position] for position in best], scores[best], 1.0)
    return Hits(candidates, [documents[position] for position in best])


def _scores(query: Query, found: Sequence[Mapping[str, Any]]) -> F32:
    distances = np.array([hit["distance"] for hit in found], dtype=np.float32)
    match query:
        case DenseQuery() if is_rescored(query) and found:
            vectors = np.array([hit["entity"][query.field.name] for hit in found], dtype=np.float32)
            return _SIMILARITIES[query.field.metric](query.vector, vectors)
        case DenseQuery():
            if query.field.metric is Metric.L2:
                return -distances
            return np.clip(distances, -1.0, 1.0) if query.field.metric is Metric.COSINE else distances
        case TextQuery():
            # Milvus has the factor k1 + 1 of older forms of BM25. The scores of Milvus Lite are negative.
            return (np.abs(distances) / (query.field.k1 + 1)).astype(np.float32)
    return distances


_NONE: Final = Hits(Candidates([], np.empty(0, dtype=np.float32), 1.0), [])
