"""Statistics of models, for the requests of this protocol."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter

from sluice.kserve.v2 import inference_service_pb2 as pb

from services.inference.loader import Model
from services.inference.scheduler import Timings


@dataclass
class RequestRecord:
    """The rows and timings of one request, recorded while it runs."""

    rows: int = 0
    times: Timings = field(default_factory=Timings)


class Statistics:
    """Counts and times of each model, by name and version. Belongs to the event loop."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], pb.ModelStatistics] = {}

    @contextmanager
    def counting(self, model: Model) -> Iterator[RequestRecord]:
        """Count the request that runs in the block; as failed if the block raises."""
        counts, request, started = self.of(model), RequestRecord(), perf_counter()
        stats = counts.inference_stats
        try:
            yield request
        except BaseException:
            _add(stats.fail, perf_counter() - started)
            raise
        total_s = perf_counter() - started
        times = request.times
        parts_s = times.queue_s + times.tokenize_s + times.inference_s
        _add(stats.success, total_s)
        _add(stats.queue, times.queue_s)
        _add(stats.compute_input, times.tokenize_s)
        _add(stats.compute_infer, times.inference_s)
        _add(stats.compute_output, total_s - parts_s)
        counts.inference_count += request.rows
        counts.last_inference = int(1000 * datetime.now(UTC).timestamp())

    def of(self, model: Model) -> pb.ModelStatistics:
        """Return the statistics of a model."""
        version = model.bundle.manifest.version
        counts = self._of.setdefault((model.name, version), pb.ModelStatistics(name=model.name, version=version))
        counts.execution_count = model.scheduler.batch_count
        return counts


def _add(duration: pb.StatisticDuration, seconds: float) -> None:
    duration.count += 1
    duration.ns += max(0, int(seconds * 1e9))
