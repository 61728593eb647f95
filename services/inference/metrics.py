"""The metrics of servers that run models. services/rpc/METRICS.md lists them."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.rpc.observability.metrics import SECONDS

QUEUE_WAIT: Final = Histogram(
    "sluice_queue_seconds", "Time that a row waited for its batch.", ["model", "lane"], buckets=SECONDS
)
TOKENIZE: Final = Histogram(
    "sluice_tokenize_seconds", "Time to tokenize the texts of one call.", ["model"], buckets=SECONDS
)
SERIALIZE: Final = Histogram(
    "sluice_serialize_seconds",
    "Time to serialize the outputs of one call into its response.",
    ["model"],
    buckets=SECONDS,
)
INFERENCE: Final = Histogram("sluice_inference_seconds", "Time of one batch.", ["model", "lane"], buckets=SECONDS)
BATCH_TOKENS: Final = Histogram(
    "sluice_batch_tokens",
    "Tokens of one batch, including padding.",
    ["model", "lane"],
    buckets=[8 * 2**power for power in range(13)],
)
TOKENS: Final = Counter("sluice_tokens", "Tokens computed: `used` or `padding`.", ["model", "lane", "kind"])
CACHE: Final = Counter(
    "sluice_cache",
    "Rows by outcome: `hit`, `coalesced` with an equal row in progress, or `miss`.",
    ["model", "outcome"],
)
REFUSED: Final = Counter(
    "sluice_refused", "Calls rejected before any work because they could not be done in time.", ["model", "lane"]
)
DROPPED: Final = Counter(
    "sluice_dropped", "Rows dropped before they were computed: `expired` or `cancelled`.", ["model", "lane", "reason"]
)
WASTED: Final = Counter(
    "sluice_wasted_rows",
    "Rows whose result was not used: the caller had disconnected, or its deadline had passed.",
    ["model", "lane"],
)
MODEL_INFO: Final = Gauge(
    "sluice_model_info",
    "1 for each loaded model.",
    ["model", "version", "digest", "variant", "execution_provider"],
)
