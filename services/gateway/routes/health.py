"""Health probes and metrics of the gateway itself.

The probes do not call the services. If a service is down, the calls to it report that.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.http.models import ERRORS, ResponseBody, described
from services.gateway.http.responses import json_response
from services.rpc.observability.metrics import metrics_page

router = APIRouter(tags=["Operations"], responses=ERRORS)


class Health(ResponseBody):
    """The state of the gateway."""

    status: str
    """`ready` or `draining`; for `/health/live` always `live`."""


@router.get("/health", responses=described(Health))
async def ready(request: Request) -> Response:
    """Readiness probe: 200 while the gateway accepts requests, 503 while it drains."""
    is_ready = bool(request.app.state.is_ready)
    return json_response({"status": "ready" if is_ready else "draining"}, status=200 if is_ready else 503)


@router.get("/health/live", responses=described(Health))
async def live() -> Response:
    """Liveness probe: always 200."""
    return json_response({"status": "live"})


@router.get("/metrics")
async def metrics() -> Response:
    """Metrics of the gateway, in the Prometheus text format."""
    page, media_type = metrics_page()
    return Response(page, media_type=media_type)
