"""Settings of the reranking server."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.inference.settings import ModelServerSettings


class RerankingSettings(ModelServerSettings):
    """Scores documents against queries over gRPC, by cross-encoders or by late interaction of bi-encoders."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_RERANKING_")

    listen: str = Field("127.0.0.1:50053", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. With port 0 the server picks a free port and logs it in the line
    `ready`."""

    cache_bytes: int = Field(256 * 2**20, ge=0)
    """Most bytes of cached outputs. In late interaction, a document of 150 tokens takes 225 KiB, so 256 MiB hold 1,100
    of them."""

    max_documents: int = Field(1024, ge=1, le=65_536)
    """Most documents of one call."""
