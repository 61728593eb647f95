"""`/v1/rerank`, a route of both Jina's API and Cohere's version 1. Clients of both can read the response.

The two differ in one default: Jina returns the texts of the documents, Cohere does not. A request follows Cohere if it
names no model, has a field that only Cohere has, or comes from Cohere's client. Otherwise it follows Jina.
"""

import secrets
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import ERRORS, Body, Many, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.reranking import RerankInput, rerank

router = APIRouter(tags=["Cohere", "Jina"], responses=ERRORS, route_class=JsonRoute)

_COHERE_FIELDS = {"rank_fields", "max_chunks_per_doc"}


class Text(Body):
    """A document as an object."""

    text: str
    """The text of the document."""


class RerankRequest(Body):
    """Documents to rerank."""

    query: str
    """The query."""
    documents: Many[str | Text]
    """1 to 1,024 documents, as texts or as objects with a text."""
    model: str = Field("", max_length=256)
    """Name of a served model. May be empty if only one is served."""
    top_n: int | None = Field(None, ge=1)
    """Number of results. Default: all documents."""
    return_documents: bool | None = None
    """Whether results contain the texts. The default is true for Jina's API and false for Cohere's."""
    rank_fields: Many[str] | None = None
    """Only in Cohere's API. Ignored: documents have only the field `text`."""
    max_chunks_per_doc: int | None = None
    """Only in Cohere's API. Ignored: texts are cut at the model's limit."""


class RankedText(ResponseBody):
    """The text of a document."""

    text: str
    """The text."""


class RankedDocument(ResponseBody):
    """A document with its score."""

    index: int
    """Position of the document in the request, from 0."""
    relevance_score: float
    """Score of the document, higher for more relevant ones."""
    document: RankedText | None = None
    """The document, if the request asks for texts. Otherwise missing."""


class Usage(ResponseBody):
    """The tokens of a request."""

    total_tokens: int
    """Number of tokens of all pairs of the query and a document."""
    prompt_tokens: int
    """The same number."""


class RerankResponse(ResponseBody):
    """Documents by relevance."""

    id: str
    """A random id of the response."""
    object: str
    """Always `list`."""
    model: str
    """Name of the model."""
    usage: Usage
    """Number of tokens."""
    results: list[RankedDocument]
    """The documents, most relevant first."""
    meta: dict[str, Any]
    """For clients of Cohere: version 1 of the API, and one search unit."""


@router.post("/v1/rerank", responses=described(RerankResponse))
async def rerank_documents(body: RerankRequest, request: Request, caller: Called) -> Response:
    """Rerank documents by their relevance to a query, for clients of Jina and of Cohere's version 1."""
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    ranked = await rerank(caller, RerankInput(body.model, body.query, texts, body.top_n or 0))
    is_cohere = not body.model or bool(_COHERE_FIELDS & body.model_fields_set) or "x-fern-language" in request.headers
    with_text = not is_cohere if body.return_documents is None else body.return_documents
    tokens = sum(one.usage.token_count for one in ranked.results)
    response = {
        "id": secrets.token_hex(16),
        "object": "list",
        "model": ranked.model.name,
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        "results": [
            {"index": one.index, "relevance_score": one.score}
            | ({"document": {"text": texts[one.index]}} if with_text else {})
            for one in ranked.results
        ],
        "meta": {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}},
    }
    return json_response(response)
