"""METRICS.md lists exactly the metrics that each server exposes."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import REGISTRY

from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.metrics import collect
from services.rpc.observability.gauges import registered

ROOT: Final = Path(__file__).parents[2]
TABLE: Final = ROOT / "services" / "rpc" / "METRICS.md"
UNITS: Final = ("_seconds", "_bytes", "_tokens", "_documents", "_candidates", "_total", "_info", "_in_flight")
STATES: Final = ("_ready", "_writable")
STANDARD: Final = "Every server"
# The section of each server's own metrics.
SECTIONS: Final = {
    "embedding": "Embedding and reranking",
    "reranking": "Embedding and reranking",
    "orchestrator": "Orchestrator",
    "retrieval": "Retrieval",
    "gateway": "Gateway",
}
# Retrieval computes these at each scrape from an engine.
COMPUTED: Final = ("sluice_collection_", "sluice_store_")
# Prints the labels of each metric that importing a server declares.
DECLARED: Final = """
import importlib, json, sys
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
importlib.import_module(sys.argv[1])
found = [one for one in REGISTRY._collector_to_names if isinstance(one, MetricWrapperBase)]
suffix = {"counter": "_total"}
print(json.dumps([[one._name + suffix.get(one._type, ""), one._type, one._labelnames] for one in found]))
"""


@dataclass(frozen=True)
class Metric:
    name: str
    kind: str


Metrics = dict[Metric, tuple[str, ...]]
"""The labels of each metric."""


@cache
def sections() -> dict[str, Metrics]:
    """Return the metrics of each section."""
    found: dict[str, Metrics] = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("## "):
            section = found.setdefault(line.removeprefix("## "), {})
        elif line.startswith("| `"):
            name, kind, labels = line.split("|")[1:4]
            section[Metric(name.strip(" `"), kind.strip())] = tuple(re.findall(r"`(\w+)`", labels))
    return found


def documented() -> Metrics:
    """Return the metrics of all sections."""
    return {metric: labels for section in sections().values() for metric, labels in section.items()}


def computed(folder: Path) -> set[Metric]:
    """Return the metrics that a retrieval server computes."""
    engine = EmbeddedEngine(folder, now_us=lambda: 0, max_collections=1, segment_documents=2)
    try:
        with registered(lambda: collect(engine, folder)):
            families = list(REGISTRY.collect())
    finally:
        engine.close()
    return {Metric(one.name, one.type) for one in families if one.name.startswith(COMPUTED)}


@pytest.mark.slow
@pytest.mark.parametrize("server", SECTIONS)
def test_a_server_declares_the_standard_metrics_and_its_own(server: str) -> None:
    command = [sys.executable, "-c", DECLARED, f"services.{server}.server"]
    printed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    declared = {Metric(name, kind): tuple(labels) for name, kind, labels in json.loads(printed)}
    expected = sections()[STANDARD] | sections()[SECTIONS[server]]
    assert declared == {one: labels for one, labels in expected.items() if not one.name.startswith(COMPUTED)}


def test_retrieval_computes_the_metrics_of_its_data(tmp_path: Path) -> None:
    assert computed(tmp_path) == {one for one in sections()["Retrieval"] if one.name.startswith(COMPUTED)}


@pytest.mark.parametrize("metric", documented(), ids=lambda metric: metric.name)
def test_names_end_in_a_base_unit_or_a_state(metric: Metric) -> None:
    assert metric.name.endswith(UNITS + STATES)
    assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_closing_an_engine_removes_its_gauges(tmp_path: Path) -> None:
    computed(tmp_path)
    assert "sluice_store_free_bytes" not in {family.name for family in REGISTRY.collect()}
