"""Queries of the retrieval service: by words, by vectors, and restricted to the candidates of other queries."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from services.orchestrator.downstream.vectors import EmbeddingBatch, Kind, dense_rows, multi_vector_rows, sparse_rows

FieldQuery = retrieval_pb.FieldQuery

# Most candidates of one query.
MAX_DEPTH: Final = 1000


def text_queries(texts: Sequence[str], *, field: str, depth: int) -> list[FieldQuery]:
    """Return a query by words for each text."""
    return [FieldQuery(field=field, depth=depth, text=text) for text in texts]


def vector_queries(batch: EmbeddingBatch, kind: Kind, *, field: str, depth: int) -> list[FieldQuery]:
    """Return a query by vectors of one kind for each text of the batch."""
    given: dict[str, Any] = {"field": field, "depth": depth, "model_digest": batch.model.digest}
    if kind == "dense":
        return [FieldQuery(dense=row, **given) for row in dense_rows(batch.dense)]
    if kind == "sparse":
        return [FieldQuery(sparse=row, **given) for row in sparse_rows(batch.sparse)]
    return [FieldQuery(multi_vector=row, **given) for row in multi_vector_rows(batch.multi_vector)]


def cascade_queries(batch: EmbeddingBatch, queries: Sequence[Sequence[FieldQuery]], *, field: str) -> list[FieldQuery]:
    """Return a query for each wording: the token vectors of the first text among the candidates of that wording.

    queries  of each retriever, a query for each wording
    """
    tokens = multi_vector_rows(batch.multi_vector)[0]
    return [
        FieldQuery(
            field=field,
            depth=min(MAX_DEPTH, sum(query.depth for query in among)),
            model_digest=batch.model.digest,
            multi_vector=tokens,
            among=among,
        )
        for among in zip(*queries, strict=True)
    ]


def feedback_query(query: FieldQuery, weights: Mapping[str, float], *, depth: int) -> FieldQuery:
    """Return a dense query whose vector moves toward these documents, each by its weight."""
    moved = FieldQuery(field=query.field, dense=query.dense, model_digest=query.model_digest, depth=depth)
    for document_id, weight in weights.items():
        moved.feedback.add(document_id=document_id, weight=weight)
    return moved


def is_sound(query: FieldQuery) -> bool:
    """Return whether the vectors of a query are finite and not all zero, as every field of their kind requires."""
    tensors = [query.dense, query.sparse.weights, query.multi_vector]
    values = [np.frombuffer(tensor.data, dtype="<f4") for tensor in tensors if tensor.data]
    return all(np.isfinite(one).all() and one.any() for one in values) and all(map(is_sound, query.among))
