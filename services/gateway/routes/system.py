"""The services behind the gateway: health, models, and readings of their metrics, for the console."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter
from grpc_health.v1 import health_pb2
from sluice.embedding.v1 import embedding_service_pb2
from sluice.errors import SluiceError, Unavailable
from sluice.reranking.v1 import reranking_service_pb2
from starlette.responses import Response

from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called, Caller
from services.rpc.observability.scraping import Sample, read

router = APIRouter(tags=["Operations"])

# A service that hangs must not hide the others.
_TIMEOUT_S: Final = 2.0


@router.get("/services")
async def services(caller: Called) -> Response:
    """Health and models of each service, and its metrics where the gateway was told of their page."""
    names = ("orchestrator", "embedding", "retrieval", "reranking")
    scraped = await _scrape_targets(caller)
    states, pages = await asyncio.gather(
        asyncio.gather(*(_state(caller.within(_TIMEOUT_S), name) for name in names)),
        asyncio.gather(*(_read_samples(address) for address in scraped.values())),
    )
    return json_response({"services": states, "metrics": dict(zip(scraped, pages, strict=True))})


async def _scrape_targets(caller: Caller) -> dict[str, str]:
    """The metrics pages by name; none while it is not known whether the caller may read them. Raises SluiceError."""
    try:
        await caller.rights.check_inner()
    except Unavailable:
        return {}
    return caller.upstream.settings.scraped()


async def _state(caller: Caller, name: str) -> dict[str, Any]:
    health, models = await asyncio.gather(_health(caller, name), _models(caller, name))
    return {"name": name, "health": health, "models": models}


async def _health(caller: Caller, name: str) -> str:
    """What its health check says; the status code's name when there is no answer."""
    try:
        answer = await caller.call(caller.upstream.health[name].Check, health_pb2.HealthCheckRequest())
    except SluiceError as error:
        return error.code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def _models(caller: Caller, name: str) -> list[dict[str, Any]]:
    """The models that a service has; none when it has no list, or gives none."""
    requests: dict[str, tuple[Any, Any]] = {
        "embedding": (caller.upstream.embedding, embedding_service_pb2.ListModelsRequest()),
        "reranking": (caller.upstream.reranking, reranking_service_pb2.ListModelsRequest()),
    }
    if name not in requests:
        return []
    stub, request = requests[name]
    try:
        response = await caller.call(stub.ListModels, request)
    except SluiceError:
        return []
    return [
        {
            "name": model.model.name,
            "version": model.model.version,
            "digest": model.model.digest,
            "variant": model.variant,
            "execution_provider": model.execution_provider,
            "max_token_count": model.max_token_count,
        }
        for model in response.models
    ]


async def _read_samples(address: str) -> list[Sample] | None:
    """The readings of a page; None when it does not answer."""
    try:
        return await asyncio.to_thread(read, address)
    except OSError:
        return None
