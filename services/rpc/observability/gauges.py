"""Gauges whose values are computed at each scrape instead of being stored."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector as RegistryCollector


@dataclass(frozen=True)
class GaugeSample:
    """The current value of a gauge: one value, or one for each collection."""

    gauge: tuple[str, str]
    """Name and description."""
    value: float | None = None
    by_collection: Mapping[str, float] | None = None
    """Values by the label `collection`; None for a gauge without that label."""


Collector = Callable[[], Iterator[GaugeSample]]
"""Computes the current values; called at each scrape."""


@contextmanager
def registered(collect: Collector) -> Iterator[None]:
    """Add a collector's gauges to the metrics of this process while the block runs."""
    collector = _Adapter(collect)
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)


class _Adapter(RegistryCollector):
    """A collector in the form that Prometheus's registry takes."""

    def __init__(self, collect: Collector) -> None:
        self._collect = collect

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: names are not reserved, so that one process can run several servers."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return every gauge with its values."""
        return map(_family, self._collect())


def _family(sample: GaugeSample) -> GaugeMetricFamily:
    if sample.by_collection is None:
        return GaugeMetricFamily(*sample.gauge, value=sample.value)
    family = GaugeMetricFamily(*sample.gauge, labels=["collection"])
    for collection, value in sample.by_collection.items():
        family.add_metric([collection], value)
    return family
