"""The engine that the settings choose, with what belongs to it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from services.retrieval.domain.engine_protocol import Engine, Moment
from services.retrieval.domain.filters import Filter
from services.retrieval.embedded.disk_monitor import Disk
from services.retrieval.embedded.engine import Engine as EmbeddedEngine
from services.retrieval.embedded.metrics import readings
from services.retrieval.embedded.recall_monitor import LiveRecall
from services.retrieval.embedded.search.search import Candidates, Query, Staged
from services.retrieval.settings import RetrievalSettings
from services.rpc.observability.gauges import Collector
from services.rpc.server.lifecycle import StartFailed

# Takes note of a search: what was read, what was asked of it, and what was found.
Note = Callable[[Moment[Any], Sequence[Query | Staged], Filter | None, Sequence[Candidates]], object]


@dataclass(frozen=True)
class Opened:
    """An engine; what its gauges say; what takes note of its searches; how many writes it takes at a time; its disk."""

    engine: Engine[Any]
    readings: Collector
    note: Note
    writers: int
    disk: Disk | None = None


def opened(settings: RetrievalSettings) -> AbstractContextManager[Opened]:
    """The engine for the block. Raises StartFailed when it cannot be opened."""
    return _milvus(settings) if settings.engine == "milvus" else _embedded(settings)


@contextmanager
def _embedded(settings: RetrievalSettings) -> Iterator[Opened]:
    engine = EmbeddedEngine(
        settings.data,
        now_us=now_us,
        max_collections=settings.max_collections,
        segment_documents=settings.segment_documents,
    )
    recall = LiveRecall(settings.recall_sample_every)

    def note(moment: Moment[Any], *asked_and_found: Any) -> None:
        recall.note(moment.collection.view, *asked_and_found)

    try:
        disk = Disk(engine, settings.data, min_free_bytes=settings.min_free_bytes)
        yield Opened(engine, partial(readings, engine, settings.data, disk), note, writers=1, disk=disk)
    finally:
        recall.close()
        engine.close()


@contextmanager
def _milvus(settings: RetrievalSettings) -> Iterator[Opened]:
    try:
        from services.retrieval.milvus import connection, engine, metrics  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise StartFailed("--engine milvus needs pymilvus: pip install 'sluice-search[milvus]'") from error
    address = connection.Address(
        settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_database
    )
    made = engine.MilvusEngine(
        address,
        timeout_s=settings.milvus_timeout_s,
        dense_index=settings.milvus_index,
        max_collections=settings.max_collections,
        now_us=now_us,
    )
    try:
        yield Opened(made, partial(metrics.readings, made), lambda *_: None, writers=settings.search_threads)
    finally:
        made.close()


def now_us() -> int:
    """The time, in microseconds since 1970-01-01 UTC."""
    return int(datetime.now(UTC).timestamp() * 1e6)
