"""Starts the reranking server: `python -m services.reranking --bundles DIR`."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.inference.catalog import open_catalog
from services.reranking.kserve import kserve_service
from services.reranking.servicer import RerankingServicer
from services.reranking.settings import RerankingSettings
from services.reranking.tei import tei_services
from services.rpc.server.lifecycle import Service, run
from services.rpc.settings import load


@asynccontextmanager
async def reranking(settings: RerankingSettings) -> AsyncIterator[Sequence[Service]]:
    """The reranking service with its models loaded."""
    async with open_catalog(settings) as catalog:
        own = RerankingServicer(catalog, settings).service
        yield [own, *tei_services(catalog, settings), kserve_service(catalog, settings)]


def main() -> None:
    """Serve until SIGTERM."""
    settings = load(RerankingSettings, sys.argv[1:], program="services.reranking")
    run(settings, lambda: reranking(settings), program="services.reranking")


if __name__ == "__main__":
    main()
