"""The services behind the gateway, for the console: health, models and metrics."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter
from grpc_health.v1 import health_pb2
from sluice.embedding.v1 import embedding_service_pb2
from sluice.errors import SluiceError, Unavailable
from sluice.reranking.v1 import reranking_service_pb2
from starlette.responses import Response

from services.gateway.http.models import ERRORS, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called, Caller
from services.rpc.observability.scraping import Sample, read

router = APIRouter(tags=["Operations"], responses=ERRORS)

# Short, so that a service that hangs does not delay the response about the others.
_TIMEOUT_S: Final = 2.0


class ServedModel(ResponseBody):
    """A model of a service."""

    name: str
    """Name of the model."""
    version: str
    """Version of the model."""
    digest: str
    """Digest of the model's bundle."""
    variant: str
    """Variant of the bundle that is loaded."""
    execution_provider: str
    """Backend that runs the model."""
    max_token_count: int
    """Most tokens of a text."""


class ServiceState(ResponseBody):
    """The state of a service."""

    name: str
    """`orchestrator`, `embedding`, `retrieval` or `reranking`."""
    health: str
    """Result of the health check, such as `SERVING`; without a response, the name of the gRPC status code."""
    models: list[ServedModel]
    """Models of the service; empty for services without models."""


class MetricSample(ResponseBody):
    """A sample of a metric."""

    name: str
    """Name of the metric."""
    labels: dict[str, str]
    """Labels of the sample."""
    value: float
    """Value of the sample."""


class ServicesResponse(ResponseBody):
    """The services and their metrics."""

    services: list[ServiceState]
    """The four services."""
    metrics: dict[str, list[MetricSample] | None]
    """Samples of each metrics endpoint in the setting `scrape`, by name; null for one that does not respond."""


@router.get("/services", responses=described(ServicesResponse))
async def services(caller: Called) -> Response:
    """Return the health and models of each service, and the metrics of the endpoints in the setting `scrape`."""
    names = ("orchestrator", "embedding", "retrieval", "reranking")
    scraped = await _scrape_targets(caller)
    states, pages = await asyncio.gather(
        asyncio.gather(*(_state(caller.within(_TIMEOUT_S), name) for name in names)),
        asyncio.gather(*(_read_samples(address) for address in scraped.values())),
    )
    return json_response({"services": states, "metrics": dict(zip(scraped, pages, strict=True))})


async def _scrape_targets(caller: Caller) -> dict[str, str]:
    """Return the metrics endpoints by name; none while it is not known whether the caller may read them.

    Raises SluiceError if the caller may not.
    """
    try:
        await caller.rights.check_inner()
    except Unavailable:
        return {}
    return caller.upstream.settings.scraped()


async def _state(caller: Caller, name: str) -> dict[str, Any]:
    health, models = await asyncio.gather(_health(caller, name), _models(caller, name))
    return {"name": name, "health": health, "models": models}


async def _health(caller: Caller, name: str) -> str:
    """Return the result of the health check, or the name of the status code of the error."""
    try:
        answer = await caller.call(caller.upstream.health[name].Check, health_pb2.HealthCheckRequest())
    except SluiceError as error:
        return error.code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def _models(caller: Caller, name: str) -> list[dict[str, Any]]:
    """Return the models of a service; none if it has no models or does not respond."""
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
    """Return the samples of a metrics endpoint, or None if it does not respond."""
    try:
        return await asyncio.to_thread(read, address)
    except OSError:
        return None
