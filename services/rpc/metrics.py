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

QUEUE_WAIT: Final = Histogram(
    "sluice_queue_seconds", "Time a row waited for its batch.", ["model", "lane"], buckets=_SECONDS
)
TOKENIZE: Final = Histogram(
    "sluice_tokenize_seconds", "Time to tokenise the texts of one call.", ["model"], buckets=_SECONDS
)
INFERENCE: Final = Histogram("sluice_inference_seconds", "Time of one batch.", ["model", "lane"], buckets=_SECONDS)
BATCH_TOKENS: Final = Histogram(
    "sluice_batch_tokens",
    "Tokens of one batch, padding included.",
    ["model", "lane"],
    buckets=[8 * 2**power for power in range(13)],
)
TOKENS: Final = Counter("sluice_tokens", "Tokens computed: `used` or `padding`.", ["model", "lane", "kind"])
CACHE: Final = Counter("sluice_cache", "Rows by outcome: `hit`, `coalesced` or `miss`.", ["model", "outcome"])
REFUSED: Final = Counter("sluice_refused", "Calls refused because they could not be done in time.", ["model", "lane"])
DROPPED: Final = Counter(
    "sluice_dropped", "Rows dropped before they were computed: `expired` or `cancelled`.", ["model", "lane", "reason"]
)

STAGE: Final = Histogram(
    "sluice_stage_seconds", "Time of one stage of a search.", ["pipeline", "stage"], buckets=_SECONDS
)
STAGE_DEGRADED: Final = Counter(
    "sluice_stage_degraded", "Stages skipped or cut short, by reason.", ["pipeline", "stage", "reason"]
)
SEARCHES: Final = Counter("sluice_searches", "Searches answered: `full` or `degraded`.", ["pipeline", "outcome"])
RETRIES: Final = Counter("sluice_retries", "Calls sent again after UNAVAILABLE.", ["service", "lane"])
BREAKER_OPENED: Final = Counter("sluice_breaker_opened", "Times a circuit breaker opened.", ["service", "lane"])
INDEXED: Final = Counter("sluice_documents_indexed", "Documents acknowledged, by outcome.", ["outcome"])

LIVE_CANDIDATES: Final = Counter(
    "sluice_live_candidates",
    "Candidates of sampled searches repeated exactly: `found` by the approximate search too, or `missed`.",
    ["outcome"],
)
RANKINGS: Final = Counter("sluice_rankings", "Rankings of retrieval: `full`, or `cut` by the deadline.", ["outcome"])
