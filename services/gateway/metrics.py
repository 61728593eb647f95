"""The metrics of the gateway. services/rpc/METRICS.md lists them."""

from typing import Final

from prometheus_client import Counter, Histogram

from services.rpc.observability.metrics import SECONDS

HTTP_HANDLED: Final = Counter(
    "sluice_http_requests", "HTTP requests that the gateway answered, by status.", ["route", "status"]
)
HTTP_HANDLING: Final = Histogram(
    "sluice_http_request_seconds",
    "Time from a request's headers to the end of its response.",
    ["route"],
    buckets=SECONDS,
)
