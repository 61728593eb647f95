"""Servers in this process, on a free port, with their real settings; a channel to each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from services.embedding.__main__ import embedding
from services.embedding.settings import EmbeddingSettings
from services.reranking.__main__ import reranking
from services.reranking.settings import RerankingSettings
from services.rpc.server.lifecycle import Build, serving
from services.rpc.settings import ServerSettings


@asynccontextmanager
async def channel_to(settings: ServerSettings, build: Build) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that runs for the block."""
    async with serving(settings, build) as running, grpc.aio.insecure_channel(running.address) as channel:
        yield channel


@asynccontextmanager
async def embedding_server(*bundles: Path, **overrides: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to an embedding server with these bundles."""
    settings = EmbeddingSettings(listen="127.0.0.1:0", bundles=list(bundles), **overrides)
    async with channel_to(settings, lambda: embedding(settings)) as channel:
        yield channel


@asynccontextmanager
async def reranking_server(*bundles: Path, **overrides: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a reranking server with these bundles."""
    settings = RerankingSettings(listen="127.0.0.1:0", bundles=list(bundles), **overrides)
    async with channel_to(settings, lambda: reranking(settings)) as channel:
        yield channel
