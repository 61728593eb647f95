"""Reading of other servers' metrics pages, for the console.

Rule: only addresses from the settings are read, never an address from a request.
"""

import urllib.request
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S: Final = 2.0
_MAX_PAGE_BYTES: Final = 8 * 2**20
_WANTED: Final = (
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "sluice_cache_total",
    "sluice_calls_in_flight",
    "sluice_documents_indexed_total",
    "sluice_live_candidates_total",
    "sluice_queue_seconds",
    "sluice_ready",
    "sluice_refused_total",
    "sluice_searches_total",
    "sluice_server_info",
    "sluice_tokens_total",
)


@dataclass(frozen=True)
class Sample:
    """One value of a page."""

    name: str
    labels: dict[str, str]
    value: float


def read(address: str) -> list[Sample]:
    """Return the values that the console shows from the page at HOST:PORT. Raises OSError if there is no such page."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as answer:
        text = answer.read(_MAX_PAGE_BYTES).decode(errors="replace")
    try:
        return samples(text)
    except ValueError as error:
        raise OSError(f"{address}: expected a metrics page: {error}") from error


def samples(text: str) -> list[Sample]:
    """Return the values of a page that the console shows. Raises ValueError if the text is not a metrics page."""
    return [
        Sample(sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(_WANTED) and not sample.name.endswith("_created")
    ]
