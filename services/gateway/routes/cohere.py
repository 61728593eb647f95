"""Cohere's API, version 2: `/v2/embed` and `/v2/rerank`."""

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
from services.gateway.http.models import ERRORS, Body, Many, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.embedding import EmbedOptions, embed
from services.gateway.upstream.reranking import RerankInput, rerank

router = APIRouter(tags=["Cohere"], responses=ERRORS, route_class=JsonRoute)

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
InputType = Literal["search_document", "search_query", "classification", "clustering"]

_MAX_TEXTS: Final = 96
_TRUNCATIONS: Final = {
    "NONE": model_pb2.TRUNCATION_REFUSE,
    "START": model_pb2.TRUNCATION_START,
    "END": model_pb2.TRUNCATION_END,
}
# Each int8 row is scaled by its own largest magnitude. That changes inner products of rows, but not cosines.
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
    """Kind of the part. Images are not supported."""
    text: str
    """The text."""


class Input(Body):
    """An input of several parts."""

    content: Many[Content] = Field(min_length=1, max_length=64)
    """Parts of the input, joined by line breaks."""


class EmbedRequest(Body):
    """Texts to embed."""

    model: str = Field(min_length=1, max_length=256)
    """Name of a served model."""
    input_type: InputType
    """Kind of the texts: `search_query` for queries. All other values mean documents."""
    texts: Many[str] | None = None
    """1 to 96 texts. Either `texts` or `inputs` is required."""
    inputs: Many[Input] | None = None
    """1 to 96 inputs, in place of `texts`."""
    embedding_types: Many[EmbeddingType] | None = Field(None, max_length=6)
    """Types of the vectors in the response. Default: `float`."""
    truncate: Literal["NONE", "START", "END"] = "END"
    """Which end of a text over the model's limit is cut. `NONE` rejects such texts."""
    output_dimension: int = Field(0, ge=0, le=65_536)
    """Length of the vectors, for models that support shorter ones. 0 means the full length."""


class RerankRequest(Body):
    """Documents to rerank."""

    model: str = Field(min_length=1, max_length=256)
    """Name of a served model."""
    query: str
    """The query."""
    documents: Many[str]
    """1 to 1,024 texts."""
    top_n: int | None = Field(None, ge=1)
    """Number of results. Default: all documents."""
    priority: int = Field(0, ge=0, le=999)
    """0 for interactive work. All other values are bulk work, which waits for interactive work."""


class ApiVersion(ResponseBody):
    """The version of Cohere's API."""

    version: str
    """Always `2`."""


class EmbedUnits(ResponseBody):
    """The size of a request to embed."""

    input_tokens: int
    """Number of tokens of all texts."""


class EmbedMeta(ResponseBody):
    """Version and size of a request to embed."""

    api_version: ApiVersion
    """Version of the API."""
    billed_units: EmbedUnits
    """Number of tokens."""


class EmbedResponse(ResponseBody):
    """The vectors of texts."""

    id: str
    """A random id of the response."""
    response_type: str
    """Always `embeddings_by_type`."""
    embeddings: dict[str, list[list[float]] | list[str]]
    """For each requested type, a vector for each text: a list of numbers, or a string for `base64`."""
    texts: list[str]
    """The texts of the request."""
    meta: EmbedMeta
    """Version of the API, and number of tokens."""


class RankedDocument(ResponseBody):
    """A document with its score."""

    index: int
    """Position of the document in the request, from 0."""
    relevance_score: float
    """Score of the document, higher for more relevant ones."""


class SearchUnits(ResponseBody):
    """The size of a request to rerank."""

    search_units: int
    """Always 1."""


class RerankMeta(ResponseBody):
    """Version and size of a request to rerank."""

    api_version: ApiVersion
    """Version of the API."""
    billed_units: SearchUnits
    """Number of searches."""


class RerankResponse(ResponseBody):
    """Documents by relevance."""

    id: str
    """A random id of the response."""
    results: list[RankedDocument]
    """The documents, most relevant first."""
    meta: RerankMeta
    """Version of the API, and size of the request."""


@router.post("/v2/embed", responses=described(EmbedResponse))
async def embed_texts(body: EmbedRequest, caller: Called) -> Response:
    """Embed texts, with vectors of several types at once."""
    texts = _texts(body)
    is_query = body.input_type == "search_query"
    options = EmbedOptions(
        body.model,
        model_pb2.TEXT_ROLE_QUERY if is_query else model_pb2.TEXT_ROLE_DOCUMENT,
        truncation=_TRUNCATIONS[body.truncate],
        dimensions=body.output_dimension,
    )
    embeddings = await embed(caller, texts, options)
    vectors = np.stack(embeddings.dense)
    response = {
        "id": secrets.token_hex(16),
        "response_type": "embeddings_by_type",
        "embeddings": {kind: _ENCODERS[kind](vectors) for kind in body.embedding_types or ["float"]},
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": embeddings.token_count}},
    }
    return json_response(response)


@router.post("/v2/rerank", responses=described(RerankResponse))
async def rerank_texts(body: RerankRequest, caller: Called) -> Response:
    """Rerank documents by their relevance to a query."""
    rerank_input = RerankInput(body.model, body.query, body.documents, body.top_n or 0, is_bulk=body.priority > 0)
    ranked = await rerank(caller, rerank_input)
    results = [{"index": one.index, "relevance_score": one.score} for one in ranked.results]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return json_response({"id": secrets.token_hex(16), "results": results, "meta": meta})


def _texts(body: EmbedRequest) -> list[str]:
    """Return the texts of a request. Raises InvalidRequest."""
    if (body.texts is None) == (body.inputs is None):
        raise unfit("texts", "expected either texts or inputs; images are not supported")
    inputs: Sequence[Input] = body.inputs or ()
    texts = body.texts or ["\n".join(part.text for part in one.content) for one in inputs]
    if not 1 <= len(texts) <= _MAX_TEXTS:
        raise unfit("texts", f"expected 1 to {_MAX_TEXTS} texts, got {len(texts)}")
    return texts
