"""Rerankers as functions of tensors, for clients of KServe v2 and Triton: pairs in, scores out."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.compat.kserve.infer_call import InferCall, InferenceBackend, Outputs, Signature, rows_of, texts_of
from services.compat.kserve.servicer import KserveServicer
from services.compat.kserve.tensors import Spec
from services.inference.catalog import Catalog
from services.inference.loader import Model
from services.reranking.scorer import RerankInput, Scores, score
from services.reranking.settings import RerankingSettings
from services.rpc.server.lifecycle import Service
from services.rpc.validation import Violations

_INPUTS: Final = (Spec("query", "BYTES", (1,)), Spec("passage", "BYTES", (1,)))
_PARAMETERS: Final = ("raw_scores",)
# Most concurrent queries of one request: enough to fill a batch, and few enough for other calls to run in between.
_MAX_CONCURRENT: Final = 64


def kserve_service(catalog: Catalog, settings: RerankingSettings) -> Service:
    """Return the service of this API for a reranking server."""
    inference = InferenceBackend(_signature, partial(_infer, settings), _PARAMETERS, settings.max_documents)
    return KserveServicer(catalog, settings, inference).service


def _signature(model: Model) -> Signature:
    """Return pairs as inputs, and their score as output; for a model with several labels also the score of each."""
    labels = model.bundle.manifest.labels
    outputs = [Spec("score", "FP32", (1,)), Spec("label_scores", "FP32", (len(labels),))]
    return Signature(_INPUTS, outputs if len(labels) > 1 else outputs[:1])


async def _infer(
    settings: RerankingSettings, model: Model, call: InferCall, violations: Violations
) -> tuple[Outputs, int]:
    """Return the scores of pairs, and their number. Raises InvalidRequest, and the errors of `score`."""
    query, passage = (call.tensors.get(spec.name) for spec in _INPUTS)
    raw_scores = call.parameters.read("raw_scores", bool, default=False)
    truncation = call.parameters.truncation
    if query is None or passage is None:
        if not violations:
            violations.add("inputs", "expected query and passage, got one or none of them")
        violations.raise_if_any()
    assert query is not None
    assert passage is not None
    if query.shape[0] != 1:  # one query applies to all passages
        rows_of([query, passage], violations)
    count = rows_of([passage], violations)
    queries = texts_of(query, violations, max_bytes=settings.max_text_bytes)
    passages = texts_of(passage, violations, max_bytes=settings.max_text_bytes)
    violations.raise_if_any()
    groups = _by_query(queries * count if len(queries) == 1 else queries)
    inputs = [
        RerankInput(
            text, [passages[at] for at in positions], truncation, raw_scores, field=f"{passage.field} of {count} [{{}}]"
        )
        for text, positions in groups.items()
    ]
    turn = asyncio.Semaphore(_MAX_CONCURRENT)

    async def in_turn(rerank_input: RerankInput) -> Scores:
        async with turn:
            return await score(model, rerank_input, call.schedule)

    scores = await asyncio.gather(*map(in_turn, inputs))
    order = [at for positions in groups.values() for at in positions]
    outputs = {"score": _in_order(order, [one.relevance[:, None] for one in scores])}
    labels = [one.labels for one in scores if one.labels is not None]
    if labels:
        outputs["label_scores"] = _in_order(order, labels)
    return outputs, count


def _by_query(queries: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each distinct query."""
    groups: dict[str, list[int]] = {}
    for position, query in enumerate(queries):
        groups.setdefault(query, []).append(position)
    return groups


def _in_order(order: Sequence[int], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the rows of all parts [N, L], each at its position."""
    rows = np.concatenate(parts)
    ordered = np.empty_like(rows)
    ordered[np.array(order)] = rows
    return ordered
