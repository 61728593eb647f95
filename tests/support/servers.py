"""Servers in this process, on free ports, with their real settings; as channels or as addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from services.embedding import server as embedding
from services.embedding.settings import EmbeddingSettings
from services.orchestrator import server as orchestrator
from services.orchestrator.settings import OrchestratorSettings
from services.reranking import server as reranking
from services.reranking.settings import RerankingSettings
from services.retrieval.server import build
from services.retrieval.settings import RetrievalSettings
from services.rpc.server.lifecycle import Build, serving
from services.rpc.settings import ServerSettings


@asynccontextmanager
async def channel_to(settings: ServerSettings, build: Build) -> AsyncIterator[grpc.aio.Channel]:
    """Run a server for the block and yield a channel to it."""
    async with serving(settings, build) as running, grpc.aio.insecure_channel(running.address) as channel:
        yield channel


@asynccontextmanager
async def embedding_server(*bundles: Path, **overrides: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Run an embedding server with these bundles and yield a channel to it."""
    settings = EmbeddingSettings(listen="127.0.0.1:0", bundles=list(bundles), **overrides)
    async with channel_to(settings, lambda: embedding.build(settings)) as channel:
        yield channel


@asynccontextmanager
async def reranking_server(*bundles: Path, **overrides: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Run a reranking server with these bundles and yield a channel to it."""
    settings = RerankingSettings(listen="127.0.0.1:0", bundles=list(bundles), **overrides)
    async with channel_to(settings, lambda: reranking.build(settings)) as channel:
        yield channel


@asynccontextmanager
async def retrieval_address(folder: Path, **overrides: Any) -> AsyncIterator[str]:
    """Run a retrieval server with its data in `folder` and yield its address."""
    settings = RetrievalSettings(listen="127.0.0.1:0", data=folder, **overrides)
    async with serving(settings, partial(build, settings)) as running:
        yield running.address


@asynccontextmanager
async def embedding_address(*bundles: Path, **overrides: Any) -> AsyncIterator[str]:
    """Run an embedding server with these bundles and yield its address."""
    settings = EmbeddingSettings(listen="127.0.0.1:0", bundles=list(bundles), **overrides)
    async with serving(settings, lambda: embedding.build(settings)) as running:
        yield running.address


@asynccontextmanager
async def orchestrator_address(**overrides: Any) -> AsyncIterator[str]:
    """Run an orchestrator and yield its address."""
    settings = OrchestratorSettings(listen="127.0.0.1:0", **overrides)
    async with serving(settings, lambda: orchestrator.build(settings)) as running:
        yield running.address


@asynccontextmanager
async def reranking_address(*bundles: Path) -> AsyncIterator[str]:
    """Run a reranking server with these bundles and yield its address."""
    settings = RerankingSettings(listen="127.0.0.1:0", bundles=list(bundles))
    async with serving(settings, lambda: reranking.build(settings)) as running:
        yield running.address
