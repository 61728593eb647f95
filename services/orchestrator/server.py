"""Puts an orchestrator together from its settings."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal

import grpc
from sluice.search.v1 import search_service_pb2
from sluice.search.v1.search_service_pb2_grpc import add_SearchServiceServicer_to_server

from services.orchestrator.discovery import Known
from services.orchestrator.downstream.embedding import EmbeddingClient
from services.orchestrator.downstream.reranking import RerankingClient
from services.orchestrator.downstream.retrieval import RetrievalClient
from services.orchestrator.downstream.services import Services
from services.orchestrator.pipelines.loader import PipelinesError
from services.orchestrator.pipelines.watcher import PipelineFile
from services.orchestrator.servicer import SearchServicer
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.client.channel import connect
from services.rpc.client.downstream import Downstream
from services.rpc.client.retry import RetryBudget
from services.rpc.server.lifecycle import Service, StartFailed, certificates_of_calls

NAME = search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name

Lane = Literal["interactive", "bulk"]
# An index stream sends one batch at a time and waits for it, so its retries cannot become the load; its deadline
# bounds them.
_RETRIES: Final[Mapping[Lane, float]] = {"interactive": 10.0, "bulk": 1000.0}


@asynccontextmanager
async def build(settings: OrchestratorSettings) -> AsyncIterator[Sequence[Service]]:
    """The SearchService, ready as soon as its channels exist: a service that is away does not keep it from starting.

    Raises StartFailed when the pipelines, or the certificates for calls, are wrong.
    """
    pipelines = _pipelines(settings)
    certificates = certificates_of_calls(settings)
    async with AsyncExitStack() as stack:
        watching = asyncio.create_task(pipelines.watch(settings.reload_s))
        stack.callback(watching.cancel)
        if certificates:
            stack.callback(asyncio.create_task(certificates.watch(settings.reload_s)).cancel)
        channels = [
            await stack.enter_async_context(
                connect(address, max_message_bytes=settings.max_message_bytes, certificates=certificates)
            )
            for address in (settings.embedding, settings.retrieval, settings.reranking)
        ]
        interactive, bulk = _services(channels, "interactive"), _services(channels, "bulk")
        known = Known(_services(channels, "bulk"), interactive, fresh_s=settings.fresh_s)
        learning = asyncio.create_task(_learn(known, pipelines))
        stack.callback(learning.cancel)
        servicer = SearchServicer(settings, pipelines, known, interactive=interactive, bulk=bulk)
        yield [Service(NAME, lambda server: add_SearchServiceServicer_to_server(servicer, server), servicer.drain)]


async def _learn(known: Known, pipelines: PipelineFile) -> None:
    """Ask for the models again and again, and tell what pipelines lack, until cancelled."""
    while True:
        await known.refresh()
        known.tell(pipelines.current)
        await asyncio.sleep(known.next_s)


def _services(channels: Sequence[grpc.aio.Channel], lane: Lane) -> Services:
    """The services with breakers and retry budgets of this lane."""
    embedding, retrieval, reranking = channels

    def downstream(name: str) -> Downstream:
        budget = RetryBudget(saved_max=_RETRIES[lane], saved=_RETRIES[lane])
        return Downstream(name, lane, budget=budget, splits=lane == "bulk")

    return Services(
        EmbeddingClient(embedding, downstream("embedding")),
        RetrievalClient(retrieval, downstream("retrieval")),
        RerankingClient(reranking, downstream("reranking")),
    )


def _pipelines(settings: OrchestratorSettings) -> PipelineFile:
    try:
        return PipelineFile(settings.pipelines)
    except PipelinesError as error:
        raise StartFailed(f"the pipelines are wrong:\n{error}") from error
