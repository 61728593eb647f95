"""The metrics of searches and index streams. services/rpc/METRICS.md lists them."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.rpc.observability.metrics import SECONDS

STAGE: Final = Histogram(
    "sluice_stage_seconds", "Time of one stage of a search.", ["pipeline", "stage"], buckets=SECONDS
)
STAGE_CANDIDATES: Final = Histogram(
    "sluice_stage_candidates",
    "Candidates that a stage passed on to the next.",
    ["pipeline", "stage"],
    buckets=[0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
)
STAGE_DEGRADED: Final = Counter(
    "sluice_stage_degraded", "Stages skipped or cut short, by the reason of the error.", ["pipeline", "stage", "reason"]
)
STAGE_TRUNCATED: Final = Counter(
    "sluice_stage_truncated", "Texts that the model of a stage truncated.", ["pipeline", "stage"]
)
STAGE_DROPPED_TOKENS: Final = Counter(
    "sluice_stage_dropped_tokens", "Tokens that the model of a stage did not read.", ["pipeline", "stage"]
)
SEARCHES: Final = Counter("sluice_searches", "Searches answered: `full` or `degraded`.", ["pipeline", "outcome"])
SEARCH_LIMIT: Final = Gauge(
    "sluice_searches_allowed_in_flight",
    "The current limit of concurrent searches. It follows how many searches end in time.",
)
INDEXED: Final = Counter(
    "sluice_documents_indexed", "Documents acknowledged: `indexed`, `unchanged` or `failed`.", ["outcome"]
)
INDEXED_TRUNCATED: Final = Counter(
    "sluice_documents_truncated", "Documents indexed that exceed the limit of an embedding model and were truncated."
)
INDEXED_DROPPED_TOKENS: Final = Counter(
    "sluice_documents_dropped_tokens", "Tokens of indexed documents that an embedding model did not read."
)
INDEX_REFUSED: Final = Counter(
    "sluice_index_refused",
    "Batches of index streams that a service rejected for now, by the reason.",
    ["service", "reason"],
)
