"""RerankingService over gRPC."""

from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import (
    RerankingServiceServicer,
    add_RerankingServiceServicer_to_server,
)

from services.inference.catalog import Catalog
from services.inference.management import ModelManagement
from services.inference.metrics import SERIALIZE
from services.inference.wire import schedule
from services.reranking.scorer import score
from services.reranking.settings import RerankingSettings
from services.reranking.wire import describe, rerank_input, response_of
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service


class RerankingServicer(ModelManagement, RerankingServiceServicer):
    """Serves the models of a catalog."""

    def __init__(self, catalog: Catalog, settings: RerankingSettings) -> None:
        super().__init__(catalog, pb, describe)
        self._settings = settings

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = pb.DESCRIPTOR.services_by_name["RerankingService"].full_name
        return Service(
            name, lambda server: add_RerankingServiceServicer_to_server(self, server), problem=self._catalog.problem
        )

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Score documents against a query."""
        with self._catalog.using(request.model) as model:
            wanted = rerank_input(request, self._settings)
            when = schedule(request.lane, context, max_s=self._settings.max_deadline_s)
            scores = await score(model, wanted, when)
            with SERIALIZE.labels(model.name).time():
                return response_of(model, scores, request)
