"""Starts the embedding server: `python -m services.embedding --bundles DIR`."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.embedding.kserve import kserve_service
from services.embedding.servicer import EmbeddingServicer
from services.embedding.settings import EmbeddingSettings
from services.embedding.tei import tei_services
from services.inference.catalog import open_catalog
from services.rpc.server.lifecycle import Service, run
from services.rpc.settings import load


@asynccontextmanager
async def embedding(settings: EmbeddingSettings) -> AsyncIterator[Sequence[Service]]:
    """The embedding service with its models loaded."""
    async with open_catalog(settings) as catalog:
        own = EmbeddingServicer(catalog, settings).service
        yield [own, *tei_services(catalog, settings), kserve_service(catalog, settings)]


def main() -> None:
    """Serve until SIGTERM."""
    settings = load(EmbeddingSettings, sys.argv[1:], program="services.embedding")
    run(settings, lambda: embedding(settings), program="services.embedding")


if __name__ == "__main__":
    main()
