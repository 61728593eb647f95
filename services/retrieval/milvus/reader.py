"""Reading one collection of Milvus."""

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
from services.retrieval.domain.documents import Document
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import Metric, Schema
from services.retrieval.embedded.reader import Found, fitting
from services.retrieval.embedded.search.dense import DenseQuery
from services.retrieval.embedded.search.lexical import SparseQuery, TextQuery
from services.retrieval.embedded.search.scoring import IsOver
from services.retrieval.embedded.search.search import Candidates, Query, Staged
from services.retrieval.milvus import fields, rows
from services.retrieval.milvus.collections import MilvusCollection
from services.retrieval.milvus.connection import STRONG, Connection
from services.retrieval.milvus.expressions import Expressions, both, ids_after, ids_in

R = TypeVar("R")

# Found beyond the depth: of equal scores at its end, so many more are compared by id.
_MORE: Final = 16
# Numbers of vectors that a search may bring along, which pymilvus makes Python objects of: some 70 MB of them. A depth
# of 1,000 with 2,048 dimensions is just within.
_NUMBERS_MAX: Final = 1016 * 2048
_SIMILARITIES: Final = {Metric.COSINE: cosine, Metric.DOT: dot, Metric.L2: l2}


@dataclass(frozen=True)
class Hits:
    """What one search found: candidates, and what of their documents was asked for."""

    candidates: Candidates
    documents: Sequence[Document]


class MilvusMoment:
    """A collection. Answers are as new as the last write; between two of them others may write."""

    def __init__(self, connection: Connection, collection: MilvusCollection, executor: Executor) -> None:
        self._connection = connection
        self._executor = executor
        self.collection = collection
        self._expressions = Expressions(collection.schema, has_membership=connection.version.has_membership)

    @property
    def schema(self) -> Schema:
        """What the collection holds."""
        return self.collection.schema

    def retrieve(
        self, queries: Sequence[Query | Staged], condition: Filter | None, is_over: IsOver, *, with_documents: bool
    ) -> Found:
        """Candidates of each query, all asked at the same time, with their documents or with their ids.

        Raises InvalidRequest for an exact search of an approximate index.
        """
        self._check(queries)
        expression = self._expressions.of(condition)
        output = fields.DOCUMENT if with_documents else (fields.ID,)
        version = self._begin(lambda: self.collection.version)
        hits = [self._begin(partial(self._search, query, expression, output)) for query in queries]
        found = [one() for one in hits]
        documents = {document.document_id: document for one in found for document in one.documents}
        return Found([one.candidates for one in found], [documents[id_] for id_ in sorted(documents)], version())

    def fed_back(self, query: Query | Staged) -> Query | Staged:
        """The query. Raises InvalidRequest when it has feedback: vectors are not at hand here."""
        if any(isinstance(one, DenseQuery) and one.feedback for one in _parts(query)):
            description = "expected none: retrieval over Milvus does not move queries"
            raise InvalidRequest(f"feedback: {description}", violations=[Violation("feedback", description)])
        return query

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids, in their order; unknown ones left out."""
        found = self.query(ids_in(ids), fields.DOCUMENT)
        by_id = {row[fields.ID]: rows.document(row) for row in found}
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def count(self, condition: Filter | None) -> int:
        """Documents that match; all when there is no filter."""
        return self.count_of(self._expressions.of(condition))

    def page(self, after: str, size: int, condition: Filter | None) -> tuple[list[Document], bool]:
        """Up to `size` documents with ids above `after` that match, by id; and whether there are more.

        Fewer when they are large; at least one when there is one.
        """
        expression = both(ids_after(after), self._expressions.of(condition))
        # Milvus gives the lowest ids, not any, to what says that it is an iterator.
        ordered = {"iterator": "True", "reduce_stop_for_best": "True"}
        listed = self.query(expression, fields.DOCUMENT, limit=size + 1, **ordered)
        found = sorted(map(rows.document, listed), key=lambda document: document.document_id)
        count = fitting(found[:size])
        return found[:count], len(found) > count

    def matching(self, chosen: Sequence[str] | Filter) -> str:
        """The expression of what is chosen by ids or by a filter."""
        return ids_in(chosen) if isinstance(chosen, Sequence) else self._expressions.of(chosen)

    def count_of(self, expression: str) -> int:
        """Documents of which the expression is true; all when it is empty."""
        (counted,) = self.query(expression, ("count(*)",))
        return int(counted["count(*)"])

    def query(self, expression: str, output: Iterable[str], **named: Any) -> list[Mapping[str, Any]]:
        """Rows of which the expression is true."""
        return list(
            self._connection.call(
                "query",
                self.collection.place,
                filter=expression,
                output_fields=list(output),
                consistency_level=STRONG,
                **named,
            )
        )

    def _check(self, queries: Sequence[Query | Staged]) -> None:
        if self.collection.dense_index == "FLAT":
            return
        flat = [one for query in queries for one in _parts(query) if isinstance(one, DenseQuery) and one.is_exact]
        if flat:
            description = (
                f"expected false: field {flat[0].field.name!r} has an HNSW index in Milvus, which is approximate;"
                " a collection created with --milvus-index FLAT can"
            )
            raise InvalidRequest(f"exact: {description}", violations=[Violation("exact", description)])

    def _search(self, query: Query | Staged, expression: str, output: Sequence[str]) -> Hits:
        if not isinstance(query, Staged):
            return self._best(query, expression, output)
        first = [self._best(one, expression, (fields.ID,)) for one in query.among]
        ids = sorted({id_ for hits in first for id_ in hits.candidates.ids})
        return self._best(query.then, both(ids_in(ids), expression), output) if ids else _NONE

    def _best(self, query: Query, expression: str, output: Sequence[str]) -> Hits:
        asked = _asked(query, self.collection.dense_index)
        if asked is None:
            return _NONE
        data, parameters = asked
        vectors = (query.field.name,) if rescored(query) else ()
        (found,) = self._connection.call(
            "search",
            self.collection.place,
            data=[data],
            anns_field=query.field.name,
            filter=expression,
            limit=min(query.depth + _MORE, fields.LIMIT_MAX) if vectors else query.depth,
            output_fields=[*output, *vectors],
            search_params=parameters,
            consistency_level=STRONG,
        )
        return hits(query, found)

    def _begin(self, work: Callable[[], R]) -> Callable[[], R]:
        """Let another thread do it, with the deadline of this one; the result when it is called."""
        return self._executor.submit(copy_context().run, work).result


def _parts(query: Query | Staged) -> Sequence[Query]:
    return (*query.among, query.then) if isinstance(query, Staged) else (query,)


def _asked(query: Query, dense_index: str) -> tuple[Any, dict[str, Any]] | None:
    """What to look for, and how; None when there is nothing to look for."""
    match query:
        case DenseQuery():
            return query.vector.tolist(), fields.search_parameters(query.field, dense_index, query.depth)
        case TextQuery():
            given = rows.words(np.repeat(query.keys, query.counts))
            return (given, {"metric_type": "BM25", "params": {}}) if given else None
        case SparseQuery():
            if (query.weights < 0).any():
                description = f"expected weights from 0 in Milvus, got {query.weights.min():g}"
                raise InvalidRequest(f"sparse: {description}", violations=[Violation("sparse", description)])
            vector = rows.sparse_vector(query.keys, query.weights)
            return (vector, {"metric_type": "IP", "params": {}}) if vector else None
    raise AssertionError("multi-vector fields are refused when a collection is created")


def rescored(query: Query) -> bool:
    """Whether scores are computed here, from vectors that Milvus sends with what it found.

    Milvus sums products in float32 and in an order that depends on where a vector lies, so scores of equal vectors
    differ in their last bits. Rounding cannot make them equal: two neighbors may lie on both sides of any border. Ours
    depend on the query and the document alone.
    """
    if not isinstance(query, DenseQuery):
        return False
    return (query.depth + _MORE) * query.field.dimensions <= _NUMBERS_MAX


def hits(query: Query, found: Sequence[Mapping[str, Any]]) -> Hits:
    """Return what a search found with scores as ours are, best first, equal ones by id."""
    scores = _scores(query, found)
    documents = [rows.document(hit["entity"]) for hit in found]
    ids = [document.document_id for document in documents]
    best = top_k(scores, ids, query.depth)
    candidates = Candidates([ids[place] for place in best], np.full(len(best), -1), scores[best], 1.0)
    return Hits(candidates, [documents[place] for place in best])


def _scores(query: Query, found: Sequence[Mapping[str, Any]]) -> F32:
    distances = np.array([hit["distance"] for hit in found], dtype=np.float32)
    match query:
        case DenseQuery() if rescored(query) and found:
            vectors = np.array([hit["entity"][query.field.name] for hit in found], dtype=np.float32)
            return _SIMILARITIES[query.field.metric](query.vector, vectors)
        case DenseQuery():
            if query.field.metric is Metric.L2:
                return -distances
            return np.clip(distances, -1.0, 1.0) if query.field.metric is Metric.COSINE else distances
        case TextQuery():
            # Milvus has the factor k1 + 1 of older forms of BM25, which Lucene dropped; Milvus Lite, minus the score.
            return (np.abs(distances) / (query.field.k1 + 1)).astype(np.float32)
    return distances


_NONE: Final = Hits(Candidates([], np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), 1.0), [])
