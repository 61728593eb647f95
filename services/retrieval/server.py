"""The composition root: opens the engine that the settings choose, and serves it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from services.retrieval.domain.engine_protocol import CollectionReader, Engine
from services.retrieval.lanes import Lanes, SharedJobs, ThreadLane
from services.retrieval.servicer import RecordSearch, RetrievalServicer
from services.retrieval.settings import RetrievalSettings
from services.retrieval.snapshots.repository import SnapshotRepository
from services.rpc.observability.gauges import Collector, registered
from services.rpc.server.lifecycle import Service, StartFailed

if TYPE_CHECKING:
    from services.retrieval.embedded.disk_monitor import DiskMonitor

_NAME = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name


@dataclass(frozen=True)
class OpenEngine:
    """An open engine, with the parts of the server that depend on the kind of engine."""

    engine: Engine[Any]
    collect: Collector
    """Reads the gauges."""
    record_search: RecordSearch
    writers: int
    """Number of concurrent writes."""
    disk: "DiskMonitor | None" = None


@asynccontextmanager
async def build(settings: RetrievalSettings) -> AsyncIterator[Sequence[Service]]:
    """Open the engine and yield the service. Raises StartFailed if the engine cannot be opened."""
    with open_engine(settings) as opened:
        lanes = _lanes(settings, opened.writers)
        disk = opened.disk
        watching = asyncio.create_task(disk.watch(lanes.writes)) if disk else None
        snapshots = SnapshotRepository(settings.snapshots, opened.engine.copy_to, now_us)
        servicer = RetrievalServicer(opened.engine, snapshots, lanes, settings, opened.record_search)
        try:
            with registered(opened.collect):
                yield [
                    Service(
                        _NAME,
                        lambda server: pb_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
                        problem=lambda: disk.problem if disk and not settings.ready_unwritable else "",
                    )
                ]
        finally:
            if watching:
                watching.cancel()
            lanes.close()


def open_engine(settings: RetrievalSettings) -> AbstractContextManager[OpenEngine]:
    """Open the chosen engine for the block. Raises StartFailed if it cannot be opened."""
    return _open_milvus(settings) if settings.engine == "milvus" else _open_embedded(settings)


# Each engine is imported only if it is chosen: with Milvus, the process loads no FAISS, and pymilvus is an extra.
# ruff: noqa: PLC0415


@contextmanager
def _open_embedded(settings: RetrievalSettings) -> Iterator[OpenEngine]:
    from services.retrieval.embedded.disk_monitor import DiskMonitor
    from services.retrieval.embedded.engine import EmbeddedEngine
    from services.retrieval.embedded.metrics import collect
    from services.retrieval.embedded.recall_monitor import RecallMonitor

    engine = EmbeddedEngine(
        settings.data,
        now_us=now_us,
        max_collections=settings.max_collections,
        segment_documents=settings.segment_documents,
    )
    recall = RecallMonitor(settings.recall_sample_every)

    def record_search(reader: CollectionReader[Any], *search: Any) -> None:
        recall.record(reader.collection.view, *search)

    try:
        disk = DiskMonitor(engine, settings.data, min_free_bytes=settings.min_free_bytes)
        yield OpenEngine(engine, partial(collect, engine, settings.data, disk), record_search, writers=1, disk=disk)
    finally:
        recall.close()
        engine.close()


@contextmanager
def _open_milvus(settings: RetrievalSettings) -> Iterator[OpenEngine]:
    try:
        from services.retrieval.milvus.connection import Address
        from services.retrieval.milvus.engine import MilvusEngine
        from services.retrieval.milvus.metrics import collect
    except ImportError as error:
        raise StartFailed("--engine milvus needs pymilvus: pip install 'sluice-search[milvus]'") from error
    address = Address(settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_database)
    engine = MilvusEngine(
        address,
        timeout_s=settings.milvus_timeout_s,
        dense_index=settings.milvus_index,
        max_collections=settings.max_collections,
        now_us=now_us,
    )
    try:
        yield OpenEngine(engine, partial(collect, engine), lambda *_: None, writers=settings.search_threads)
    finally:
        engine.close()


def _lanes(settings: RetrievalSettings, writers: int) -> Lanes:
    reads = ThreadLane("reads", threads=settings.search_threads, max_waiting=settings.max_waiting_reads)
    return Lanes(reads, ThreadLane("writes", threads=writers, max_waiting=settings.max_waiting_writes), SharedJobs())


def now_us() -> int:
    """Return the current time in microseconds since 1970-01-01 UTC."""
    return int(datetime.now(UTC).timestamp() * 1e6)
