"""Settings of the embedding server."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.inference.settings import ModelServerSettings


class EmbeddingSettings(ModelServerSettings):
    """Serves text embeddings over gRPC."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_EMBEDDING_")

    listen: str = Field("127.0.0.1:50051", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. With port 0 the server picks a free port and logs it in the line
    `ready`."""

    max_texts: int = Field(256, ge=1, le=65_536)
    """Most texts of one call."""
