"""Every metric of the project, defined once. Label values come from closed sets; units are base units."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# 0.5 ms to 30 s: from a cached query to the longest deadline.
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

HANDLED: Final = Counter("grpc_server_handled", "Calls ended, by code.", ["grpc_service", "grpc_method", "grpc_code"])
HANDLING: Final = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's arrival to its end.",
    ["grpc_service", "grpc_method"],
    buckets=_SECONDS,
)
IN_FLIGHT: Final = Gauge("sluice_calls_in_flight", "Calls being handled.", ["grpc_service"])
