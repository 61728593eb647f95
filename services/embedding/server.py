"""The embedding server, built from its settings."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.embedding.kserve import kserve_service
from services.embedding.servicer import EmbeddingServicer
from services.embedding.settings import EmbeddingSettings
from services.embedding.tei import tei_services
from services.inference.catalog import open_catalog
from services.rpc.server.lifecycle import Service


@asynccontextmanager
async def build(settings: EmbeddingSettings) -> AsyncIterator[Sequence[Service]]:
    """Load the models and yield the services; unload the models at the end. Raises StartFailed."""
    async with open_catalog(settings) as catalog:
        own = EmbeddingServicer(catalog, settings).service
        yield [own, *tei_services(catalog, settings), kserve_service(catalog, settings)]
