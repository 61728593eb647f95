"""What the collections in Milvus are like. How Milvus holds them, its own metrics tell."""

from collections.abc import Iterator

from sluice.errors import SluiceError

from services.retrieval.milvus.engine import MilvusEngine
from services.rpc.observability import metrics
from services.rpc.observability.gauges import GaugeSample


def readings(engine: MilvusEngine) -> Iterator[GaugeSample]:
    """The documents of each collection; nothing when Milvus does not tell in time."""
    try:
        found = engine.catalogue.collections
        counts = {name: one.document_count for name, one in found.items()}
    except SluiceError:
        return
    yield GaugeSample(metrics.COLLECTION_DOCUMENTS, by_collection=counts)
