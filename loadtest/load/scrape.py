"""Metrics of the servers during a run: queue wait, memory, descriptors, processor time, padding."""

import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from sluice.cli.console import CommandFailed

_EVERY_S: Final = 1.0
_TIMEOUT_S: Final = 2.0
_WANTED: Final = {
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_cpu_seconds_total",
    "sluice_queue_seconds_sum",
    "sluice_queue_seconds_count",
    "sluice_tokens_total",
    "sluice_wasted_rows_total",
}

Sample = dict[str, float]
"""Values by name, with the relevant label: `sluice_tokens_total.padding`. Summed over all other labels."""


def read(address: str) -> Sample:
    """Return the metrics of one server now. Raises CommandFailed."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{address}: expected Prometheus metrics: {error}") from error
    sample: Sample = {}
    for family in text_string_to_metric_families(text):
        for metric in family.samples:
            if metric.name in _WANTED:
                kind = metric.labels.get("kind") or metric.labels.get("lane")
                name = f"{metric.name}.{kind}" if kind else metric.name
                sample[name] = sample.get(name, 0.0) + metric.value
    return sample


def padding_share(before: Sample, after: Sample) -> float | None:
    """Return the share of padding in the tokens computed between two samples; None if there were none."""
    padding, used = (
        after.get(f"sluice_tokens_total.{kind}", 0) - before.get(f"sluice_tokens_total.{kind}", 0)
        for kind in ("padding", "used")
    )
    return padding / (padding + used) if padding + used else None


@dataclass
class Series:
    """Samples of one server over time."""

    name: str
    address: str
    moments: list[float] = field(default_factory=list)
    """Times of the samples, on the monotonic clock."""
    samples: list[Sample] = field(default_factory=list)

    def values(self, name: str, start: float) -> list[tuple[float, float]]:
        """Return (seconds since `start`, value) of one metric, from `start` on."""
        pairs = zip(self.moments, self.samples, strict=True)
        return [(moment - start, sample[name]) for moment, sample in pairs if name in sample and moment >= start]

    def per_s(self, name: str, start: float) -> list[tuple[float, float]]:
        """Return (seconds since `start`, increase per second) of a counter, except where it was restarted."""
        points = self.values(name, start)
        return [(t, (v - v0) / (t - t0)) for (t0, v0), (t, v) in pairwise(points) if v >= v0]

    def queue_wait_s(self, lane: str, start: float) -> list[tuple[float, float]]:
        """Return (seconds since `start`, mean queue wait since the last sample) for each sample with new rows."""
        points = []
        for i in range(1, len(self.samples)):
            total, count = (
                self.samples[i].get(f"sluice_queue_seconds_{part}.{lane}", 0)
                - self.samples[i - 1].get(f"sluice_queue_seconds_{part}.{lane}", 0)
                for part in ("sum", "count")
            )
            if count > 0 and self.moments[i] >= start:
                points.append((self.moments[i] - start, total / count))
        return points


@contextmanager
def watching(addresses: Sequence[tuple[str, str]]) -> Iterator[list[Series]]:
    """Sample each (name, address) every second during the block. Raises CommandFailed if one does not answer."""
    series = [Series(name, address) for name, address in addresses]
    for one in series:
        read(one.address)
    stop = threading.Event()
    threads = [threading.Thread(target=_watch, args=(one, stop), daemon=True) for one in series]
    for thread in threads:
        thread.start()
    try:
        yield series
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _watch(series: Series, stop: threading.Event) -> None:
    while not stop.is_set():
        now = time.monotonic()
        try:
            sample = read(series.address)
        except CommandFailed:
            pass  # a gap in the series; the run itself reports a lost target
        else:
            series.moments.append(now)
            series.samples.append(sample)
        stop.wait(_EVERY_S)
