"""`/v1/rerank`, which Jina and Cohere's version 1 both have: one answer that the clients of both read.

They differ in one default. Jina's returns the documents' texts unless told otherwise, Cohere's only when told. A
request that names no model, has a field that Cohere alone has, or comes from Cohere's own client, is Cohere's.
"""

import secrets

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import Body, Many
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.reranking import RerankInput, rerank

router = APIRouter(tags=["Cohere", "Jina"], route_class=JsonRoute)

_COHERE_FIELDS = {"rank_fields", "max_chunks_per_doc"}


class Text(Body):
    """A document as an object."""

    text: str
    """Its text."""


class RerankRequest(Body):
    """Documents to rerank."""

    query: str
    """The question."""
    documents: Many[str | Text]
    """1 to 1,024 texts."""
    model: str = Field("", max_length=256)
    """Name of a served model; empty when there is one."""
    top_n: int | None = Field(None, ge=1)
    """Only the best so many."""
    return_documents: bool | None = None
    """Return the texts too."""
    rank_fields: Many[str] | None = None
    """Cohere's: only `text` is known."""
    max_chunks_per_doc: int | None = None
    """Cohere's: of no effect, texts are read up to the model's limit."""


@router.post("/v1/rerank")
async def rerank_documents(body: RerankRequest, request: Request, caller: Called) -> Response:
    """Documents by relevance."""
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    ranked = await rerank(caller, RerankInput(body.model, body.query, texts, body.top_n or 0))
    is_cohere = not body.model or bool(_COHERE_FIELDS & body.model_fields_set) or "x-fern-language" in request.headers
    with_text = not is_cohere if body.return_documents is None else body.return_documents
    tokens = sum(one.usage.token_count for one in ranked.results)
    answer = {
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
    return json_response(answer)
