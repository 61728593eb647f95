"""The gauges of the Milvus engine. Milvus has metrics of its own for everything else."""

from collections.abc import Iterator

from sluice.errors import SluiceError

from services.retrieval.metrics import COLLECTION_DOCUMENTS
from services.retrieval.milvus.engine import MilvusEngine
from services.rpc.observability.gauges import GaugeSample


def collect(engine: MilvusEngine) -> Iterator[GaugeSample]:
    """Yield the document count of each collection, or nothing if Milvus does not respond in time."""
    try:
        counts = {name: one.document_count for name, one in engine.catalog.collections.items()}
    except SluiceError:
        return
    yield GaugeSample(COLLECTION_DOCUMENTS, by_collection=counts)
