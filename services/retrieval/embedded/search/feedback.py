"""Relevance feedback: a query's vector moved by those of stored documents, beside the vectors. Pure.

Source: Rocchio, Relevance Feedback in Information Retrieval, 1971.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from services.core.arrays import F32
from services.core.similarity import unit
from services.retrieval.domain.schema import Metric
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search.dense import DenseQuery


def moved(query: DenseQuery, view: View, rows: Mapping[str, int]) -> DenseQuery:
    """The query with its vector + the sum of weight x vector of each of its documents that is there.

    rows  of documents by id
    Of a cosine field, stored vectors have unit length, and the query's is made so first.
    """
    vector = unit(query.vector[None])[0] if query.field.metric is Metric.COSINE else query.vector
    weights = {rows[id_]: weight for id_, weight in query.feedback if id_ in rows}
    total = vector.astype(np.float64)
    for row, stored in _vectors(view, query.field.name, weights):
        total += weights[row] * stored.astype(np.float64)
    result: F32 = total.astype(np.float32)
    # A sum of nothing has no direction; as it was, it had one.
    return replace(query, vector=result if result.any() else vector, feedback=())


def _vectors(view: View, field: str, rows: Mapping[int, float]) -> list[tuple[int, F32]]:
    wanted = np.array(sorted(rows), dtype=np.int64)
    found = []
    for part in view.parts:
        positions = np.flatnonzero(np.isin(part.block.rows, wanted) & part.alive)
        matrix = part.block.vectors[field].matrix
        found += [(int(part.block.rows[position]), matrix[position]) for position in positions]
    return found
