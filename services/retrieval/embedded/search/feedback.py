"""Relevance feedback: moves the vector of a query by the vectors of stored documents. Pure.

Source: Rocchio, Relevance Feedback in Information Retrieval, 1971.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from services.core.arrays import F32
from services.core.similarity import unit
from services.retrieval.domain.queries import DenseQuery
from services.retrieval.domain.schema import Metric
from services.retrieval.embedded.index.view import View


def rocchio(query: DenseQuery, view: View, rows: Mapping[str, int]) -> DenseQuery:
    """Return the query with its vector plus the sum of weight x vector over its feedback documents.

    For a cosine field the query vector is scaled to unit length first, as stored vectors are.

    rows  of documents by id; feedback of other documents is ignored
    """
    vector = unit(query.vector[None])[0] if query.field.metric is Metric.COSINE else query.vector
    weights = {rows[id_]: weight for id_, weight in query.feedback if id_ in rows}
    total = vector.astype(np.float64)
    for row, stored in _vectors(view, query.field.name, weights):
        total += weights[row] * stored.astype(np.float64)
    result: F32 = total.astype(np.float32)
    # A zero vector has no direction, so the original vector is used.
    return replace(query, vector=result if result.any() else vector, feedback=())


def _vectors(view: View, field: str, rows: Mapping[int, float]) -> list[tuple[int, F32]]:
    wanted = np.array(sorted(rows), dtype=np.int64)
    found = []
    for part in view.parts:
        positions = np.flatnonzero(np.isin(part.block.rows, wanted) & part.alive)
        matrix = part.block.vectors[field].matrix
        found += [(int(part.block.rows[position]), matrix[position]) for position in positions]
    return found
