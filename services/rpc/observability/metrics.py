"""The metrics of every server. Label values come from closed sets; units are base units."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

# 0.5 ms to 30 s: from a cached query to the longest deadline.
SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

HANDLED: Final = Counter(
    "grpc_server_handled", "Calls that ended, by status code.", ["grpc_service", "grpc_method", "grpc_code"]
)
HANDLING: Final = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's arrival to its end.",
    ["grpc_service", "grpc_method"],
    buckets=SECONDS,
)
TOKEN_CALLS: Final = Counter(
    "sluice_token_calls",
    "Calls by the name of their token: `admitted`, `denied` or `over_quota`; without a token: `unauthenticated`.",
    ["token", "outcome"],
)
RELOADS: Final = Counter(
    "sluice_reloads",
    "Changed files by role: `taken`, or `refused` because they are invalid.",
    ["role", "outcome"],
)
CERTIFICATE_EXPIRY: Final = Gauge(
    "sluice_certificate_expiry_timestamp_seconds", "Expiry of the server's certificate, in Unix time; 0 without one."
)
SPANS: Final = Counter(
    "sluice_spans", "Spans of traces: `ended`, `exported` to the collector, or `failed` to be exported.", ["outcome"]
)
OPEN_CALLS: Final = Gauge("sluice_open_calls_in_flight", "Calls of health and reflection in progress.")
OPEN_CALLS_ENDED: Final = Counter(
    "sluice_open_calls_ended",
    "Calls of health and reflection ended by the server: `lifetime`, `displaced` by a newer one, or `refused`.",
    ["reason"],
)
IN_FLIGHT: Final = Gauge("sluice_calls_in_flight", "Calls in progress.", ["grpc_service"])

SERVER_INFO: Final = Gauge("sluice_server_info", "1 for the running program.", ["program", "version", "grpc_version"])
READY: Final = Gauge("sluice_ready", "1 while the server reports itself healthy, else 0.")


def metrics_page() -> tuple[bytes, str]:
    """Return all metrics of this process in the Prometheus format, and its media type."""
    return generate_latest(), CONTENT_TYPE_LATEST
