"""Search, and the list of pipelines."""

from fastapi import APIRouter
from pydantic import ConfigDict, Field, with_config
from sluice.client.answers import Pipeline, Result, SearchAnswer, Stage, StageReport, Standing, pipelines, search_answer
from sluice.client.documents import Document
from sluice.search.v1 import search_service_pb2 as pb
from starlette.responses import Response

from services.gateway.http.json_route import JsonRoute
from services.gateway.http.models import ERRORS, Body, Many, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.filters import parse_filter

router = APIRouter(tags=["Sluice"], responses=ERRORS, route_class=JsonRoute)


# The JSON of responses is that of these classes. OpenAPI takes the descriptions of fields from their docstrings.
for _type in (Document, Standing, Result, StageReport, SearchAnswer, Stage, Pipeline):
    with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))(_type)


class SearchRequest(Body):
    """A search."""

    query: str
    """The query."""
    collection: str = "docs"
    """Name of the collection."""
    pipeline: str = ""
    """Name of the pipeline; empty means `default`. `/pipelines` lists them."""
    top_k: int = Field(0, ge=0, le=1000)
    """Number of results; 0 means 10."""
    filter: str = Field("", max_length=65_536)
    """Filter that documents must match, for example `kind == 'function' and year >= 2020`."""
    more_queries: Many[str] = Field([], max_length=7)
    """Up to 7 other wordings of the query, searched together with it."""


class PipelinesResponse(ResponseBody):
    """The pipelines."""

    pipelines: list[Pipeline]
    """The pipelines, by name."""


@router.post("/search", responses=described(SearchAnswer))
async def search(body: SearchRequest, caller: Called) -> Response:
    """Search a collection.

    Returns the best documents, the rank and score of each document in each stage, and a report on each stage.
    """
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


@router.get("/pipelines", responses=described(PipelinesResponse))
async def list_pipelines(caller: Called) -> Response:
    """List the pipelines by name, with their stages."""
    response = await caller.call(caller.upstream.search.ListPipelines, pb.ListPipelinesRequest())
    return json_response({"pipelines": pipelines(response)})
