"""Settings of the orchestrator: SLUICE_ORCHESTRATOR_*."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.orchestrator.documents import DocumentLimits
from services.orchestrator.downstream.vectors import FieldKind
from services.orchestrator.indexing.limits import IndexLimits
from services.orchestrator.pipelines.schema import PACKAGED
from services.rpc.settings import ServerSettings

_ADDRESS = r"^([a-z]+:///?)?.+:\d{1,5}$|^unix:.+$"


class OrchestratorSettings(ServerSettings):
    """Settings of one orchestrator."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_ORCHESTRATOR_")

    listen: str = Field("127.0.0.1:50050", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. Port 0 picks a free port, which the log line `ready` shows."""

    embedding: str = Field("127.0.0.1:50051", pattern=_ADDRESS)
    """Address of the embedding service. If a name has several addresses, calls go to them in turn."""

    retrieval: str = Field("127.0.0.1:50052", pattern=_ADDRESS)
    """Address of the retrieval service."""

    reranking: str = Field("127.0.0.1:50053", pattern=_ADDRESS)
    """Address of the reranking service."""

    pipelines: Path = PACKAGED
    """YAML file of pipelines. The default is the packaged file."""

    fresh_s: float = Field(5.0, ge=0.01, le=3600)
    """Seconds after which the fields of a collection are looked up again, and between listings of the served models."""

    reserve_s: float = Field(0.01, ge=0, le=1)
    """Seconds reserved for building and sending a response; at most a tenth of the caller's time."""

    max_query_bytes: int = Field(8192, ge=1, le=65_536)
    """Longest query, in bytes of UTF-8. Must not exceed the limit of the embedding service."""

    max_message_documents: int = Field(256, ge=1, le=4096)
    """Most documents in one message of an index stream."""

    max_text_bytes: int = Field(65_536, ge=1, le=2**20)
    """Longest title and text of a document together, in bytes of UTF-8. Must not exceed the limit of the embedding
    service."""

    max_document_bytes: int = Field(262_144, ge=1, le=2**22)
    """Largest document, including its metadata, in bytes."""

    index_model: str = Field("", max_length=128)
    """Embedding model for new collections; may be empty if the embedding service serves one model."""

    index_fields: list[FieldKind] = Field(["dense", "text"], min_length=1, max_length=4)
    """Fields of new collections: `dense`, `text` (words, by BM25), and `sparse` or `multi_vector` if a model produces
    them. Token vectors take about 100 times the space of a dense vector."""

    batch_documents: int = Field(32, ge=1, le=256)
    """Most documents embedded and stored at once. 32 documents of 100 tokens take one core about a second."""

    batch_bytes: int = Field(4 * 2**20, ge=2**16, le=2**28)
    """Most bytes of documents stored at once. With their vectors they must fit into one message to the retrieval
    service."""

    batch_timeout_s: float = Field(60.0, gt=0, le=3600)
    """Timeout in seconds of one attempt to embed or store a batch. After a timeout the batch is sent again, smaller."""

    patience_s: float = Field(600.0, gt=0, le=86_400)
    """Seconds that an index stream continues while the embedding or the retrieval service accepts none of its
    documents. Meanwhile its batches are halved, down to one document. Then the stream ends with UNAVAILABLE."""

    idle_timeout_s: float = Field(60.0, gt=0, le=3600)
    """Seconds that an index stream may be open without a document arriving or being processed."""

    def index_limits(self) -> IndexLimits:
        """Return the settings of index streams."""
        return IndexLimits(
            model=self.index_model,
            kinds=tuple(dict.fromkeys(self.index_fields)),
            batch_documents=self.batch_documents,
            batch_bytes=self.batch_bytes,
            batch_timeout_s=self.batch_timeout_s,
            patience_s=self.patience_s,
            idle_timeout_s=self.idle_timeout_s,
            document=DocumentLimits(max_text_bytes=self.max_text_bytes, max_document_bytes=self.max_document_bytes),
        )
