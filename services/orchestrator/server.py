"""Builds the orchestrator from its settings."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal

import grpc
from sluice.search.v1 import search_service_pb2
from sluice.search.v1.search_service_pb2_grpc import add_SearchServiceServicer_to_server

from services.orchestrator.discovery import ServiceDirectory
from services.orchestrator.downstream.embedding import EmbeddingClient
from services.orchestrator.downstream.reranking import RerankingClient
from services.orchestrator.downstream.retrieval import RetrievalClient
from services.orchestrator.downstream.services import Services
from services.orchestrator.pipelines.loader import PipelinesError
from services.orchestrator.pipelines.validation import Check, check, log_changes
from services.orchestrator.pipelines.watcher import PipelineFile
from services.orchestrator.servicer import SearchServicer
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.client.channel import connect
from services.rpc.client.downstream import Downstream
from services.rpc.client.retry import RetryBudget
from services.rpc.server.lifecycle import Service, StartFailed, certificates_of_calls

NAME = search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name

Lane = Literal["interactive", "bulk"]
# An index stream sends one batch at a time and waits for it, so its retries cannot overload a service. Its deadline
# limits them.
_RETRIES: Final[Mapping[Lane, float]] = {"interactive": 10.0, "bulk": 1000.0}


@asynccontextmanager
async def build(settings: OrchestratorSettings) -> AsyncIterator[Sequence[Service]]:
    """Yield the SearchService. It starts even if other services are unavailable.

    Raises StartFailed if the pipelines or the certificates for calls are invalid.
    """
    pipelines = _load_pipelines(settings)
    certificates = certificates_of_calls(settings)
    async with AsyncExitStack() as stack:
        stack.callback(asyncio.create_task(pipelines.watch(settings.reload_s)).cancel)
        if certificates:
            stack.callback(asyncio.create_task(certificates.watch(settings.reload_s)).cancel)
        channels = [
            await stack.enter_async_context(
                connect(address, max_message_bytes=settings.max_message_bytes, certificates=certificates)
            )
            for address in (settings.embedding, settings.retrieval, settings.reranking)
        ]
        interactive, bulk = _services(channels, "interactive"), _services(channels, "bulk")
        directory = ServiceDirectory(_services(channels, "bulk"), interactive, fresh_s=settings.fresh_s)
        stack.callback(asyncio.create_task(_keep_directory_fresh(directory, pipelines)).cancel)
        servicer = SearchServicer(settings, pipelines, directory, interactive=interactive, bulk=bulk)
        yield [Service(NAME, lambda server: add_SearchServiceServicer_to_server(servicer, server), servicer.drain)]


async def _keep_directory_fresh(directory: ServiceDirectory, pipelines: PipelineFile) -> None:
    """Refresh the models at intervals, and log pipelines that lack one, until cancelled."""
    logged: Mapping[str, Check] = {}
    while True:
        await directory.refresh()
        models = directory.embedders, directory.rerankers
        logged = log_changes(logged, {name: check(one, *models) for name, one in pipelines.current.items()})
        await asyncio.sleep(directory.next_s)


def _services(channels: Sequence[grpc.aio.Channel], lane: Lane) -> Services:
    """Return clients with their own circuit breakers and retry budgets."""
    embedding, retrieval, reranking = channels

    def downstream(name: str) -> Downstream:
        budget = RetryBudget(saved_max=_RETRIES[lane], saved=_RETRIES[lane])
        return Downstream(name, lane, budget=budget, splits=lane == "bulk")

    return Services(
        EmbeddingClient(embedding, downstream("embedding")),
        RetrievalClient(retrieval, downstream("retrieval")),
        RerankingClient(reranking, downstream("reranking")),
    )


def _load_pipelines(settings: OrchestratorSettings) -> PipelineFile:
    try:
        return PipelineFile(settings.pipelines)
    except PipelinesError as error:
        raise StartFailed(f"invalid pipelines:\n{error}") from error
