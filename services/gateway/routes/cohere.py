"""Cohere's shape, version 2: `/v2/embed` and `/v2/rerank`."""

import base64
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field
from sluice.client.documents import unfit
from sluice.common.v1 import model_pb2
from starlette.responses import Response

from services.core.arrays import F32
from services.core.representation import binarize, quantize_int8
from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import Body, Many
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.embedding import EmbedOptions, embed
from services.gateway.upstream.reranking import RerankInput, rerank

router = APIRouter(tags=["Cohere"], route_class=JsonRoute)

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
InputType = Literal["search_document", "search_query", "classification", "clustering"]

_MOST_TEXTS: Final = 96
_TRUNCATIONS: Final = {
    "NONE": model_pb2.TRUNCATION_REFUSE,
    "START": model_pb2.TRUNCATION_START,
    "END": model_pb2.TRUNCATION_END,
}
# int8 rows are scaled by their own largest magnitude: cosine does not see that, and inner products between rows do.
_ENCODERS: Final[dict[str, Callable[[F32], Any]]] = {
    "float": list,
    "int8": lambda vectors: list(quantize_int8(vectors)[0]),
    "uint8": lambda vectors: list((quantize_int8(vectors)[0].astype(np.int16) + 128).astype(np.uint8)),
    "binary": lambda vectors: list((binarize(vectors).astype(np.int16) - 128).astype(np.int8)),
    "ubinary": lambda vectors: list(binarize(vectors)),
    "base64": lambda vectors: [base64.b64encode(row.tobytes()).decode() for row in vectors],
}


class Content(Body):
    """A part of an input."""

    type: Literal["text"]
    """Images are not taken."""
    text: str
    """The text."""


class Input(Body):
    """An input of several parts."""

    content: Many[Content] = Field(min_length=1, max_length=64)
    """Its parts, joined by line breaks."""


class EmbedRequest(Body):
    """Texts to embed."""

    model: str = Field(min_length=1, max_length=256)
    """Name of a served model."""
    input_type: InputType
    """What the texts are: `search_query` for queries, all others mean documents."""
    texts: Many[str] | None = None
    """1 to 96 texts."""
    inputs: Many[Input] | None = None
    """Instead of `texts`."""
    embedding_types: Many[EmbeddingType] | None = Field(None, max_length=6)
    """Forms of the vectors; `float` unless given."""
    truncate: Literal["NONE", "START", "END"] = "END"
    """What to do with texts over the model's limit."""
    output_dimension: int = Field(0, ge=0, le=65_536)
    """Length of the vectors; 0 means all."""


class RerankRequest(Body):
    """Documents to rerank."""

    model: str = Field(min_length=1, max_length=256)
    """Name of a served model."""
    query: str
    """The question."""
    documents: Many[str]
    """1 to 1,024 texts."""
    top_n: int | None = Field(None, ge=1)
    """Only the best so many."""
    priority: int = Field(0, ge=0, le=999)
    """0 goes before bulk work, all others are bulk work."""


@router.post("/v2/embed")
async def embed_texts(body: EmbedRequest, caller: Called) -> Response:
    """The vectors of texts, in several forms at once."""
    texts = _texts(body)
    is_query = body.input_type == "search_query"
    options = EmbedOptions(
        body.model,
        model_pb2.TEXT_ROLE_QUERY if is_query else model_pb2.TEXT_ROLE_DOCUMENT,
        truncation=_TRUNCATIONS[body.truncate],
        dimensions=body.output_dimension,
    )
    embedded = await embed(caller, texts, options)
    vectors = np.stack(embedded.dense)
    answer = {
        "id": secrets.token_hex(16),
        "response_type": "embeddings_by_type",
        "embeddings": {form: _ENCODERS[form](vectors) for form in body.embedding_types or ["float"]},
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": embedded.token_count}},
    }
    return json_response(answer)


@router.post("/v2/rerank")
async def rerank_texts(body: RerankRequest, caller: Called) -> Response:
    """Documents by relevance."""
    options = RerankInput(body.model, body.query, body.documents, body.top_n or 0, is_bulk=body.priority > 0)
    ranked = await rerank(caller, options)
    results = [{"index": one.index, "relevance_score": one.score} for one in ranked.results]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return json_response({"id": secrets.token_hex(16), "results": results, "meta": meta})


def _texts(body: EmbedRequest) -> list[str]:
    if (body.texts is None) == (body.inputs is None):
        raise unfit("texts", "expected texts or inputs, and not both; images are not taken")
    inputs: Sequence[Input] = body.inputs or ()
    texts = body.texts or ["\n".join(part.text for part in one.content) for one in inputs]
    if not 1 <= len(texts) <= _MOST_TEXTS:
        raise unfit("texts", f"expected 1 to {_MOST_TEXTS} texts, got {len(texts)}")
    return texts
