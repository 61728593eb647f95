"""Health checks of the services, from the outside."""

import urllib.error
import urllib.request
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sluice.cli.access import Access
from sluice.client.credentials import bearer
from sluice.errors import from_rpc_error

TIMEOUT_S: Final = 2.0
SERVING: Final = "SERVING"
_HEALTH_NAMES: Final = {
    "embedding": "sluice.embedding.v1.EmbeddingService",
    "retrieval": "sluice.retrieval.v1.RetrievalService",
    "reranking": "sluice.reranking.v1.RerankingService",
    "orchestrator": "sluice.search.v1.SearchService",
}


def health(name: str, address: str, timeout_s: float = TIMEOUT_S, access: Access | None = None) -> str:
    """Return the serving status of a gRPC service, or the name of the status code if the health check fails."""
    request = health_pb2.HealthCheckRequest(service=_HEALTH_NAMES[name])
    given = access or Access(token=None, credentials=None)
    credentials = given["credentials"]
    with grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            response = stub.Check(request, timeout=timeout_s, metadata=bearer(given["token"]))
        except grpc.RpcError as error:
            return from_rpc_error(error).code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def gateway_health(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """Return the state of a gateway: `SERVING`, `NOT_SERVING` or `UNAVAILABLE`."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=timeout_s):
            return SERVING
    except urllib.error.HTTPError:
        return "NOT_SERVING"
    except OSError:
        return "UNAVAILABLE"
