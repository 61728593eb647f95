"""What retrieval is asked: queries of fields, by words, by vectors, and among what others find."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from services.orchestrator.vectors import Embedded, Kind, dense_rows, multi_vector_rows, sparse_rows

FieldQuery = retrieval_pb.FieldQuery

# Most candidates of one query.
MAX_DEPTH: Final = 1000


def text_queries(texts: Sequence[str], *, field: str, depth: int) -> list[FieldQuery]:
    """A query by words for each text."""
    return [FieldQuery(field=field, depth=depth, text=text) for text in texts]


def vector_queries(embedded: Embedded, kind: Kind, *, field: str, depth: int) -> list[FieldQuery]:
    """A query by vectors of one kind for each embedded text."""
    given: dict[str, Any] = {"field": field, "depth": depth, "model_digest": embedded.model.digest}
    if kind == "dense":
        return [FieldQuery(dense=row, **given) for row in dense_rows(embedded.dense)]
    if kind == "sparse":
        return [FieldQuery(sparse=row, **given) for row in sparse_rows(embedded.sparse)]
    return [FieldQuery(multi_vector=row, **given) for row in multi_vector_rows(embedded.multi_vector)]


def staged_queries(embedded: Embedded, asked: Sequence[Sequence[FieldQuery]], *, field: str) -> list[FieldQuery]:
    """For each wording, the first text's token vectors against what every retriever finds for that wording.

    asked  of each retriever, a query for each wording
    """
    tokens = multi_vector_rows(embedded.multi_vector)[0]
    return [
        FieldQuery(
            field=field,
            depth=min(MAX_DEPTH, sum(query.depth for query in among)),
            model_digest=embedded.model.digest,
            multi_vector=tokens,
            among=among,
        )
        for among in zip(*asked, strict=True)
    ]


def is_sound(query: FieldQuery) -> bool:
    """Whether the vectors of a query are finite and not all zero: what any field of their kind takes."""
    tensors = [query.dense, query.sparse.weights, query.multi_vector]
    values = [np.frombuffer(tensor.data, dtype="<f4") for tensor in tensors if tensor.data]
    return all(np.isfinite(one).all() and one.any() for one in values) and all(map(is_sound, query.among))


def moved_query(query: FieldQuery, weights: Mapping[str, float], *, depth: int) -> FieldQuery:
    """The query with its vector moved by these documents, each by its weight."""
    moved = FieldQuery(field=query.field, dense=query.dense, model_digest=query.model_digest, depth=depth)
    for document_id, weight in weights.items():
        moved.feedback.add(document_id=document_id, weight=weight)
    return moved
