"""Every route of the gateway, with a valid request for each."""

import re
from typing import Any, Final

from starlette.routing import Route

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.stubs import Upstream

OPEN: Final = ("/", "/health", "/health/live", "/console/{name:path}")
# Routes that call only the orchestrator, or no service.
NOT_INNER: Final = ("/search", "/pipelines", "/metrics", "/openapi.json", "DELETE /documents")
BODIES: Final[dict[str, Any]] = {
    "/v1/embeddings": {"model": "hashing", "input": "some words"},
    "/v2/embed": {"model": "hashing", "input_type": "search_query", "texts": ["some words"]},
    "/v2/rerank": {"model": "overlap", "query": "some", "documents": ["some words"]},
    "/v1/rerank": {"query": "some", "documents": ["some words"]},
    "/embed": {"inputs": "some words"},
    "/embed_sparse": {"inputs": "some words"},
    "/embed_all": {"inputs": "some words"},
    "/rerank": {"query": "some", "texts": ["some words"]},
    "/tokenize": {"inputs": "some words"},
    "/decode": {"ids": [1, 2]},
    "/search": {"query": "some words", "collection": "secret"},
    "/documents": {"documents": [{"id": "a", "text": "some words"}]},
}


async def routes() -> list[tuple[str, str]]:
    """Return method and path of every route of the application."""
    upstream = Upstream(GatewaySettings())
    app = create_app(upstream.settings, upstream)
    await upstream.close()
    found = [(method, one.path) for one in flattened(app.routes) for method in one.methods or () if method != "HEAD"]
    assert len(found) >= 25
    return sorted(found)


def flattened(found: Any) -> list[Route]:
    """Return the routes of an application and of its routers."""
    table: list[Route] = []
    for one in found:
        table += [one] if isinstance(one, Route) else flattened(one.original_router.routes)
    return table


def request_of(method: str, path: str) -> dict[str, Any]:
    """Return a valid request for a route, as arguments of httpx."""
    url = re.sub(r"\{[^}]+\}", "secret", path)
    body = BODIES.get(path) if method == "POST" else None
    return {"method": method, "url": url, "params": {"collection": "secret"}, "json": body}


async def inner_routes() -> list[tuple[str, str]]:
    """Return the routes that call a service behind the orchestrator."""
    return [
        (method, path)
        for method, path in await routes()
        if path not in OPEN + NOT_INNER and f"{method} {path}" not in NOT_INNER
    ]
