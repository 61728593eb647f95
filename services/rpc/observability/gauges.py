"""Gauges that are read when the metrics are asked for, and not kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class Reading:
    """What a gauge says now."""

    gauge: tuple[str, str]
    """Its name and what it means: from `services.rpc.observability.metrics`."""
    value: float | None = None
    by_collection: Mapping[str, float] | None = None
    """The value of each collection, for gauges that have one for each."""


Read = Callable[[], Iterator[Reading]]


@contextmanager
def exposed(read: Read) -> Iterator[None]:
    """The readings are among the metrics of this process for the block."""
    readings = _Readings(read)
    REGISTRY.register(readings)
    try:
        yield
    finally:
        REGISTRY.unregister(readings)


class _Readings(Collector):
    def __init__(self, read: Read) -> None:
        self._read = read

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: names are not reserved, so one process may have several servers."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every gauge with its values."""
        return map(_family, self._read())


def _family(reading: Reading) -> GaugeMetricFamily:
    if reading.by_collection is None:
        return GaugeMetricFamily(*reading.gauge, value=reading.value)
    family = GaugeMetricFamily(*reading.gauge, labels=["collection"])
    for collection, value in reading.by_collection.items():
        family.add_metric([collection], value)
    return family
