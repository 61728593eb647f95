"""The responses of the gateway have the fields that its OpenAPI document and API.md say."""

from typing import Any, Final

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.model_pb2 import WINDOW_AGGREGATION_MAX, Windows
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval
from sluice.search.v1 import search_service_pb2 as search

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.stubs import Upstream
from tests.support.fake_services import ExactRetrieval, Stored, retrieval_server
from tests.support.gateway import gateway
from tests.support.gateway_routes import flattened, request_of
from tests.support.scripted_search import ScriptedSearch

DOCUMENT: Final = Document(document_id="secret", text="some words", title="Some")
SCHEMA: Final = retrieval.Schema(
    dense_fields=[retrieval.DenseField(name="dense", dimensions=4, metric=retrieval.METRIC_DOT)],
    text_fields=[retrieval.TextField(name="text")],
    metadata_fields=[retrieval.MetadataField(name="year", type=retrieval.METADATA_TYPE_NUMBER)],
    windows=Windows(overlap_token_count=8, aggregation=WINDOW_AGGREGATION_MAX),
)
ANSWER: Final = search.SearchResponse(
    results=[search.Result(document=DOCUMENT, standings=[search.Standing(stage="dense", rank=1, score=0.5)])],
    stages=[search.StageReport(stage="dense")],
)


async def documented() -> dict[tuple[str, str], Any]:
    """Return the type of the response of each route that has one, by method and path."""
    upstream = Upstream(GatewaySettings())
    app = create_app(upstream.settings, upstream)
    await upstream.close()
    routes: list[Any] = [one for one in flattened(app.routes) if isinstance(one, APIRoute) and one.include_in_schema]
    return {
        (method, one.path): one.responses[200]["model"]
        for one in routes
        for method in one.methods
        if 200 in one.responses
    }


async def test_every_json_response_is_documented() -> None:
    found = await documented()
    assert len(found) >= 21
    assert {path for _, path in found} >= {"/search", "/documents", "/v1/embeddings", "/v2/embed", "/info"}


@pytest.mark.parametrize("return_texts", [False, True])
async def test_responses_have_the_documented_fields(return_texts: bool) -> None:
    """Unknown fields, missing fields and other types fail."""
    stored = Stored(SCHEMA, {"secret": DOCUMENT}, {"secret": ""})
    async with (
        retrieval_server(ExactRetrieval(collections={"secret": stored})) as retrieval_address,
        ScriptedSearch(answer=ANSWER).served() as orchestrator,
        gateway(retrieval=retrieval_address, orchestrator=orchestrator) as there,
    ):
        for (method, path), kind in (await documented()).items():
            request = request_of(method, path)
            if return_texts and "rerank" in path:
                request["json"] |= {"return_text": True, "return_documents": True}
            if path == "/decode":  # the fake embedder does not decode
                continue
            response = await there.http.request(**request)
            assert response.status_code == 200, (method, path, response.text)
            TypeAdapter(kind).validate_json(response.content)
