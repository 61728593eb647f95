"""Is it there, and would it answer: for probes. Neither asks the services, whose outage is told by their calls."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.http.responses import json_response
from services.rpc.observability.metrics import metrics_page

router = APIRouter(tags=["Operations"])


@router.get("/health")
async def ready(request: Request) -> Response:
    """200 while requests are wanted, 503 once the gateway drains."""
    is_ready = bool(request.app.state.is_ready)
    return json_response({"status": "ready" if is_ready else "draining"}, status=200 if is_ready else 503)


@router.get("/health/live")
async def live() -> Response:
    """200 while the process can answer at all."""
    return json_response({"status": "live"})


@router.get("/metrics")
async def metrics() -> Response:
    """The gateway's own metrics, for Prometheus."""
    page, media_type = metrics_page()
    return Response(page, media_type=media_type)
