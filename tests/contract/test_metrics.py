"""METRICS.md lists exactly the metrics that servers expose."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from services.gateway import metrics as gateway
from services.inference import metrics as inference
from services.orchestrator import metrics as orchestrator
from services.retrieval import metrics as retrieval
from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.metrics import collect
from services.rpc.client import downstream
from services.rpc.observability import metrics
from services.rpc.observability.gauges import registered

TABLE = Path(__file__).parents[2] / "services" / "rpc" / "METRICS.md"
MODULES = (metrics, downstream, inference, orchestrator, retrieval, gateway)
UNITS = ("_seconds", "_bytes", "_tokens", "_documents", "_candidates", "_total", "_info", "_in_flight")
STATES = ("_ready", "_writable")


@dataclass(frozen=True)
class Metric:
    name: str
    kind: str


@cache
def documented() -> dict[Metric, tuple[str, ...]]:
    """Return the metrics of the table with their labels."""
    rows = [line.split("|")[1:4] for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    return {Metric(name.strip(" `"), kind.strip()): tuple(re.findall(r"`(\w+)`", names)) for name, kind, names in rows}


def defined() -> Iterator[MetricWrapperBase]:
    """Yield the metrics that store their own values."""
    for module in MODULES:
        yield from (value for value in vars(module).values() if isinstance(value, MetricWrapperBase))


def of_ours(folder: Path) -> set[Metric]:
    """Return the metrics that a retrieval server exposes, without those of Python and of the process."""
    engine = EmbeddedEngine(folder, now_us=lambda: 0, max_collections=1, segment_documents=2)
    try:
        with registered(lambda: collect(engine, folder)):
            families = list(REGISTRY.collect())
    finally:
        engine.close()
    ours = [family for family in families if family.name.startswith(("sluice_", "grpc_"))]
    return {Metric(f"{one.name}_total" if one.type == "counter" else one.name, one.type) for one in ours}


def test_the_table_names_what_is_exposed(tmp_path: Path) -> None:
    assert set(documented()) == of_ours(tmp_path)


def test_the_table_names_the_labels() -> None:
    given = {re.sub("_total$", "", metric.name): labels for metric, labels in documented().items()}
    assert {one._name: one._labelnames for one in defined()}.items() <= given.items()


@pytest.mark.parametrize("metric", documented(), ids=lambda metric: metric.name)
def test_names_end_in_a_base_unit_or_a_state(metric: Metric) -> None:
    assert metric.name.endswith(UNITS + STATES)
    assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_closing_an_engine_removes_its_gauges(tmp_path: Path) -> None:
    of_ours(tmp_path)
    assert "sluice_store_free_bytes" not in {family.name for family in REGISTRY.collect()}
