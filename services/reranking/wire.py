"""Conversion between the messages of the reranking service and the values of its domain."""

from typing import Final

import numpy as np
from sluice.common.v1.model_pb2 import TextUsage
from sluice.reranking.v1 import reranking_service_pb2 as pb

from services.inference.catalog import model_ref
from services.inference.loader import Model
from services.inference.wire import truncation, usage
from services.reranking.scorer import RerankInput, Scores
from services.reranking.settings import RerankingSettings
from services.rpc.validation import validating

_SCORINGS: Final = {
    "bi_encoder": pb.SCORING_LATE_INTERACTION,
    "cross_encoder": pb.SCORING_CROSS_ENCODER,
    "listwise": pb.SCORING_LISTWISE,
}


def rerank_input(request: pb.RerankRequest, settings: RerankingSettings) -> RerankInput:
    """Return what to score. Raises InvalidRequest."""
    most = settings.max_documents
    with validating() as violations:
        violations.text("query", request.query, max_bytes=settings.max_text_bytes)
        if violations.count("documents", len(request.documents), low=1, high=most, what="documents"):
            for position, text in enumerate(request.documents):
                violations.text(f"documents[{position}]", text, max_bytes=settings.max_text_bytes)
        if not 0 <= request.top_k <= len(request.documents):
            description = f"expected 0 to {len(request.documents)}, the number of documents, got {request.top_k}"
            violations.add("top_k", description, expected_max=len(request.documents), given=request.top_k)
        if request.order not in pb.Order.values():
            violations.add("order", f"expected SCORE or REQUEST, got number {request.order}")
        if request.HasField("windows") and request.truncation:
            violations.add("truncation", "expected none together with windows, which drop nothing, got one")
        how = truncation(request.truncation, violations)
    overlap = request.windows.overlap_token_count if request.HasField("windows") else None
    return RerankInput(request.query, list(request.documents), how, request.raw_scores, overlap)


def response_of(model: Model, scores: Scores, request: pb.RerankRequest) -> pb.RerankResponse:
    """Return the best `top_k` documents in the requested order."""
    best = np.argsort(-scores.relevance, kind="stable")[: request.top_k or None]
    order = np.sort(best) if request.order == pb.ORDER_REQUEST else best
    results = [
        pb.ScoredDocument(
            index=index,
            score=scores.relevance[index],
            label_scores=() if scores.labels is None else scores.labels[index],
            usage=usage(scores.inputs[index]),
        )
        for index in order.tolist()
    ]
    response = pb.RerankResponse(model=model_ref(model), results=results)
    if scores.query is not None:
        read, dropped = scores.query.token_count, scores.query.dropped
        response.query_usage.CopyFrom(TextUsage(token_count=read, dropped_token_count=dropped, window_count=1))
    return response


def describe(model: Model) -> pb.RerankingModel:
    """Return the entry of a model in the response of ListModels."""
    manifest = model.bundle.manifest
    return pb.RerankingModel(
        model=model_ref(model),
        scoring=_SCORINGS[manifest.task],
        labels=manifest.labels,
        max_token_count=manifest.max_token_count,
        execution_provider=model.session.execution_provider,
        variant=model.session.variant,
    )
