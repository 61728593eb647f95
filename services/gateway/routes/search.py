"""Sluice's own search."""

from fastapi import APIRouter
from pydantic import Field
from sluice.client.answers import pipelines, search_answer
from sluice.search.v1 import search_service_pb2 as pb
from starlette.responses import Response

from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import Body, Many
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.filters import parse_filter

router = APIRouter(tags=["Sluice"], route_class=JsonRoute)


class SearchRequest(Body):
    """A search."""

    query: str
    """The question."""
    collection: str = "docs"
    """Where."""
    pipeline: str = ""
    """Name of a pipeline; empty means `default`."""
    top_k: int = Field(0, ge=0, le=1000)
    """How many results; 0 means 10."""
    filter: str = Field("", max_length=65_536)
    """Only documents that match, e.g. `kind == 'function' and year >= 2020`."""
    more_queries: Many[str] = Field([], max_length=7)
    """Other wordings of the question."""


@router.post("/search")
async def search(body: SearchRequest, caller: Called) -> Response:
    """The best documents for a query, where each stood in each stage, and what each stage did."""
    caller.check_size("query", body.query)
    caller.check_sizes("more_queries", body.more_queries)
    request = pb.SearchRequest(
        collection=body.collection,
        query=body.query,
        pipeline=body.pipeline,
        top_k=body.top_k,
        filter=await parse_filter(body.filter),
        more_queries=body.more_queries,
    )
    return json_response(search_answer(await caller.call(caller.upstream.search.Search, request)))


@router.get("/pipelines")
async def list_pipelines(caller: Called) -> Response:
    """The pipelines by name, with their stages."""
    response = await caller.call(caller.upstream.search.ListPipelines, pb.ListPipelinesRequest())
    return json_response({"pipelines": pipelines(response)})
