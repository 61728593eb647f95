"""Settings of the reranking server."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.inference.settings import ModelServerSettings


class RerankingSettings(ModelServerSettings):
    """Scores documents against queries over gRPC: cross-encoders, and bi-encoders by late interaction."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_RERANKING_")

    listen: str = Field("127.0.0.1:50053", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. Port 0 takes a free one, which the log line `ready` names."""

    cache_bytes: int = Field(256 * 2**20, ge=0)
    """Most bytes of outputs kept. By late interaction a document of 150 tokens takes 225 KiB: 256 MiB is 1,100."""

    max_documents: int = Field(1024, ge=1, le=65_536)
    """Most documents of one call."""
