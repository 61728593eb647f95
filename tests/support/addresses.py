"""Real servers in this process for clients that bring their own channel: where they serve."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from services.reranking.__main__ import reranking
from services.reranking.settings import RerankingSettings
from services.retrieval.servicer import build
from services.retrieval.settings import RetrievalSettings
from services.rpc.server.lifecycle import serving


@asynccontextmanager
async def retrieval_at(folder: Path, **others: Any) -> AsyncIterator[str]:
    """The address of a retrieval server with its data in `folder`."""
    settings = RetrievalSettings(listen="127.0.0.1:0", data=folder, **others)
    async with serving(settings, partial(build, settings)) as running:
        yield running.address


@asynccontextmanager
async def reranking_at(bundle: Path) -> AsyncIterator[str]:
    """The address of a reranking server with this bundle."""
    settings = RerankingSettings(listen="127.0.0.1:0", bundles=[bundle])
    async with serving(settings, lambda: reranking(settings)) as running:
        yield running.address
