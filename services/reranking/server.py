"""The reranking server, built from its settings."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.inference.catalog import open_catalog
from services.reranking.kserve import kserve_service
from services.reranking.servicer import RerankingServicer
from services.reranking.settings import RerankingSettings
from services.reranking.tei import tei_services
from services.rpc.server.lifecycle import Service


@asynccontextmanager
async def build(settings: RerankingSettings) -> AsyncIterator[Sequence[Service]]:
    """Load the models and yield the services; unload the models at the end. Raises StartFailed."""
    async with open_catalog(settings) as catalog:
        own = RerankingServicer(catalog, settings).service
        yield [own, *tei_services(catalog, settings), kserve_service(catalog, settings)]
