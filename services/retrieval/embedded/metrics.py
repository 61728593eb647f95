"""The gauges of the embedded engine: its collections and its data folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from services.retrieval import metrics
from services.retrieval.embedded.disk_monitor import DiskMonitor
from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.index.view import View
from services.retrieval.files import DATABASE
from services.rpc.observability.gauges import GaugeSample


def collect(engine: EmbeddedEngine, folder: Path, disk: DiskMonitor | None = None) -> Iterator[GaugeSample]:
    """Yield every gauge. All collections are read at the same moment."""
    collections = engine.catalog.collections
    views = {name: one.view for name, one in collections.items()}
    counts = {name: view.document_count for name, view in views.items()}
    yield GaugeSample(metrics.COLLECTION_DOCUMENTS, by_collection=counts)
    unindexed = {name: view.document_count - view.indexed_count for name, view in views.items()}
    yield GaugeSample(metrics.COLLECTION_UNINDEXED, by_collection=unindexed)
    yield GaugeSample(metrics.COLLECTION_DELETED, by_collection={name: view.dead_count for name, view in views.items()})
    yield GaugeSample(
        metrics.COLLECTION_VECTORS, by_collection={name: vector_bytes(view) for name, view in views.items()}
    )
    memory = {name: engine.memory_bytes(one) for name, one in collections.items()}
    yield GaugeSample(metrics.COLLECTION_MEMORY, by_collection=memory)
    files = {name: engine.segment_bytes(one) for name, one in collections.items()}
    yield GaugeSample(metrics.COLLECTION_SEGMENTS, by_collection=files)
    log = folder / f"{DATABASE}-wal"
    yield GaugeSample(metrics.STORE_LOG, log.stat().st_size if log.exists() else 0)
    yield GaugeSample(metrics.STORE_FREE, shutil.disk_usage(folder).free)
    yield GaugeSample(metrics.STORE_WRITABLE, engine.is_writable and not (disk and disk.problem))


def vector_bytes(view: View) -> int:
    """Return the bytes of dense vectors and token vectors, in memory or mapped."""
    blocks = [part.block for part in view.parts]
    dense = sum(vectors.matrix.nbytes for block in blocks for vectors in block.vectors.values())
    return dense + sum(multi.tokens.vectors.nbytes for block in blocks for multi in block.multi_vectors.values())
