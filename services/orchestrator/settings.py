"""Settings of the orchestrator: SLUICE_ORCHESTRATOR_*."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.orchestrator.documents import DocumentLimits
from services.orchestrator.downstream.vectors import FieldKind
from services.orchestrator.indexing.stream import IndexLimits
from services.orchestrator.pipelines.schema import PACKAGED
from services.rpc.settings import ServerSettings

_ADDRESS = r"^([a-z]+:///?)?.+:\d{1,5}$|^unix:.+$"


class OrchestratorSettings(ServerSettings):
    """How one orchestrator runs."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_ORCHESTRATOR_")

    listen: str = Field("127.0.0.1:50050", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. Port 0 takes a free one, which the log line `ready` names."""

    embedding: str = Field("127.0.0.1:50051", pattern=_ADDRESS)
    """Address of the embedding service; a name with several addresses is used in turn."""

    retrieval: str = Field("127.0.0.1:50052", pattern=_ADDRESS)
    """Address of the retrieval service."""

    reranking: str = Field("127.0.0.1:50053", pattern=_ADDRESS)
    """Address of the reranking service."""

    pipelines: Path = PACKAGED
    """File of pipelines, YAML; the packaged one unless given."""

    fresh_s: float = Field(5.0, ge=0.01, le=3600)
    """Seconds after which a collection's fields are looked at again, and between looks at which models are served."""

    reserve_s: float = Field(0.01, ge=0, le=1)
    """Time kept to put an answer together, in seconds; never more than a tenth of a caller's."""

    max_query_bytes: int = Field(8192, ge=1, le=65_536)
    """Longest query, in bytes of UTF-8. Not above what the embedding service takes."""

    max_message_documents: int = Field(256, ge=1, le=4096)
    """Most documents in one message of an index stream."""

    max_text_bytes: int = Field(65_536, ge=1, le=2**20)
    """Longest title and text of a document together, in bytes of UTF-8. Not above what the embedding service takes."""

    max_document_bytes: int = Field(262_144, ge=1, le=2**22)
    """Largest document with its metadata, in bytes."""

    index_model: str = Field("", max_length=128)
    """Embedding model for new collections; empty when the embedding service has one."""

    index_fields: list[FieldKind] = Field(["dense", "text"], min_length=1, max_length=4)
    """Fields of new collections: `dense`, `text` (words, by BM25), and `sparse` or `multi_vector` of a model that has
    them. Token vectors take about 100 times the room of a dense one."""

    batch_documents: int = Field(32, ge=1, le=256)
    """Most documents embedded and stored at once. 32 of 100 tokens are about a second of one core."""

    batch_bytes: int = Field(4 * 2**20, ge=2**16, le=2**28)
    """Most bytes of documents stored at once; with their vectors they must fit the retrieval service's messages."""

    batch_timeout_s: float = Field(60.0, gt=0, le=3600)
    """Longest time of one try to embed a batch, or to store it; a batch that takes longer is sent again, smaller."""

    patience_s: float = Field(600.0, gt=0, le=86_400)
    """Longest time an index stream goes on while the embedding or the retrieval service takes none of its documents;
    then it ends as UNAVAILABLE. Its batches are halved meanwhile, down to one document."""

    idle_timeout_s: float = Field(60.0, gt=0, le=3600)
    """Longest time an index stream may be open with no document coming and none under way."""

    def index_limits(self) -> IndexLimits:
        """The part of the settings that index streams need."""
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
