"""What the collections and the data folder are like, read when the metrics are asked for."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.retrieval.engine import Engine
from services.retrieval.index import View
from services.retrieval.store import DATABASE
from services.rpc import metrics


class Gauges(Collector):
    """Gauges of an engine on its data folder."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: names are not reserved, so one process may have several engines."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every gauge, all of them of one moment."""
        views = {name: one.view for name, one in self._engine.catalogue.collections.items()}
        yield _each(metrics.COLLECTION_DOCUMENTS, {name: view.document_count for name, view in views.items()})
        unindexed = {name: view.document_count - view.indexed_count for name, view in views.items()}
        yield _each(metrics.COLLECTION_UNINDEXED, unindexed)
        yield _each(metrics.COLLECTION_DELETED, {name: view.dead_count for name, view in views.items()})
        yield _each(metrics.COLLECTION_VECTORS, {name: _vector_bytes(view) for name, view in views.items()})
        log = self._folder / f"{DATABASE}-wal"
        yield GaugeMetricFamily(*metrics.STORE_LOG, value=log.stat().st_size if log.exists() else 0)
        yield GaugeMetricFamily(*metrics.STORE_FREE, value=shutil.disk_usage(self._folder).free)
        yield GaugeMetricFamily(*metrics.STORE_WRITABLE, value=self._engine.is_writable)


@contextmanager
def exposed(engine: Engine, folder: Path) -> Iterator[None]:
    """The gauges are among the metrics of this process for the block."""
    gauges = Gauges(engine, folder)
    REGISTRY.register(gauges)
    try:
        yield
    finally:
        REGISTRY.unregister(gauges)


def _each(named: tuple[str, str], values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(*named, labels=["collection"])
    for collection, value in values.items():
        family.add_metric([collection], value)
    return family


def _vector_bytes(view: View) -> int:
    blocks = [part.block for part in view.parts]
    dense = sum(vectors.matrix.nbytes for block in blocks for vectors in block.vectors.values())
    return dense + sum(tokens.vectors.nbytes for block in blocks for tokens in block.tokens.values())
