"""The services under load: their addresses, their calls, and a check that they answer."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sluice.cli.console import CommandFailed
from sluice.client import EmbeddingClient, float32_tensor
from sluice.common.v1.model_pb2 import Lane, TextRole
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.errors import SluiceError, from_rpc_error
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from sluice.search.v1 import search_service_pb2 as search_pb

from loadtest import collection
from loadtest.channels import access, channel, metadata
from loadtest.load.scenario import Rpc, Scenario, Workload

# Enough that a run of minutes repeats few requests; the bytes limit the memory of each worker.
_MOST_REQUESTS: Final = 100_000
_MOST_BYTES: Final = 64 * 2**20
_FIRST_CALL_S: Final = 10.0
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|\n+")


class _Method(NamedTuple):
    service: str
    name: str

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


_METHODS: Final[dict[Rpc, _Method]] = {
    "search": _Method("sluice.search.v1.SearchService", "Search"),
    "embed": _Method("sluice.embedding.v1.EmbeddingService", "Embed"),
    "rerank": _Method("sluice.reranking.v1.RerankingService", "Rerank"),
    "retrieve": _Method("sluice.retrieval.v1.RetrievalService", "Retrieve"),
}


@dataclass(frozen=True)
class Addresses:
    """Addresses of the services."""

    search: str = "127.0.0.1:50050"
    embed: str = "127.0.0.1:50051"
    retrieve: str = "127.0.0.1:50052"
    rerank: str = "127.0.0.1:50053"

    def of(self, rpc: Rpc) -> str:
        """Return the address that serves an RPC."""
        return str(getattr(self, rpc))


@dataclass(frozen=True)
class Texts:
    """Real texts to make calls from."""

    queries: Sequence[str]
    passages: Sequence[str]

    @classmethod
    def of(cls, folder: Path) -> "Texts":
        """Read the texts of a collection in BEIR layout. Raises CommandFailed."""
        passages = [collection.passage(document) for document in collection.corpus(folder).documents.values()]
        return cls(list(collection.queries(folder).values()), [passage for passage in passages if passage.strip()])


@dataclass(frozen=True)
class Calls:
    """The calls of one workload, for a worker. Requests are serialized once, before the run."""

    address: str
    path: str
    deadline_s: float
    requests: list[bytes]
    reports_degraded: bool


def calls_of(scenario: Scenario, addresses: Addresses, texts: Texts, collection_name: str) -> list[Calls]:
    """Return the calls of each workload. Raises CommandFailed if vectors for `retrieve` cannot be computed."""
    return [_calls(workload, addresses, texts, collection_name, scenario.seed) for workload in scenario.workloads]


def _calls(workload: Workload, addresses: Addresses, texts: Texts, collection_name: str, seed: int) -> Calls:
    requests: list[bytes] = []
    size = 0
    for message in _messages(workload, addresses, texts, collection_name, random.Random(seed)):  # noqa: S311
        requests.append(message.SerializeToString())
        size += len(requests[-1])
        if len(requests) == _MOST_REQUESTS or size > _MOST_BYTES:
            break
    return Calls(
        address=addresses.of(workload.rpc),
        path=_METHODS[workload.rpc].path,
        deadline_s=workload.deadline_s,
        requests=requests,
        reports_degraded=workload.rpc == "search",
    )


def _messages(
    workload: Workload, addresses: Addresses, texts: Texts, collection_name: str, chance: random.Random
) -> Iterator[Message]:
    queries = chance.sample(list(texts.queries), len(texts.queries))
    passages = chance.sample(list(texts.passages), len(texts.passages))
    match workload.rpc:
        case "search":
            for query in queries:
                yield search_pb.SearchRequest(
                    collection=collection_name, query=query, pipeline=workload.pipeline, top_k=workload.top_k
                )
        case "embed":
            yield from _embeds(workload, _kind(workload, queries, passages))
        case "rerank":
            for query in queries:
                yield reranking_pb.RerankRequest(
                    model=workload.model,
                    query=query,
                    documents=chance.sample(passages, min(workload.batch, len(passages))),
                    lane=Lane.Value(f"LANE_{workload.lane.upper()}"),
                )
        case "retrieve":
            yield from _retrieves(workload, addresses.embed, queries[:256], collection_name)


def _kind(workload: Workload, queries: list[str], passages: list[str]) -> list[str]:
    if workload.texts == "sentences":
        return list(dict.fromkeys(sentence for passage in passages for sentence in sentences(passage)))
    return queries if workload.texts == "queries" else passages


def sentences(passage: str) -> list[str]:
    """Return the sentences of a passage that are about as long as a query: 4 to 20 words."""
    return [sentence for sentence in _SENTENCE_END.split(passage) if 4 <= len(sentence.split()) <= 20]


def _embeds(workload: Workload, texts: Sequence[str]) -> Iterator[Message]:
    role = TextRole.TEXT_ROLE_DOCUMENT if workload.texts == "documents" else TextRole.TEXT_ROLE_QUERY
    for start in range(0, len(texts), workload.batch):
        yield embedding_pb.EmbedRequest(
            model=workload.model,
            texts=texts[start : start + workload.batch],
            role=role,
            lane=Lane.Value(f"LANE_{workload.lane.upper()}"),
        )


def _retrieves(workload: Workload, embedding: str, queries: Sequence[str], collection_name: str) -> Iterator[Message]:
    with EmbeddingClient(embedding, timeout_s=60.0, **access()) as client:
        try:
            answers = [client.embed([query], "query", model=workload.model, lane="bulk") for query in queries]
        except SluiceError as error:
            raise CommandFailed(f"{embedding}: cannot embed queries for `retrieve`: {error.message}") from error
    for answer in answers:
        assert answer.dense is not None
        vector = memoryview(answer.dense.tobytes()).cast("f")
        query = retrieval_pb.FieldQuery(
            dense=float32_tensor(vector, axes=1, field="dense"), depth=workload.top_k, model_digest=answer.model.digest
        )
        yield retrieval_pb.RetrieveRequest(collection=collection_name, queries=[query])


def check(scenario: Scenario, calls: Sequence[Calls]) -> None:
    """Make the first call of each workload. Raises CommandFailed that names a target that is unhealthy or fails."""
    for workload, plan in zip(scenario.workloads, calls, strict=True):
        service = _METHODS[workload.rpc].service
        with channel(plan.address) as to_target:
            health: Any = health_pb2_grpc.HealthStub(to_target)
            call: Any = to_target.unary_unary(plan.path)
            try:
                answer = health.Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=_FIRST_CALL_S, metadata=metadata()
                )
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    raise CommandFailed(
                        f"{plan.address}: expected {service} to be SERVING; its health check says otherwise"
                    )
                call(plan.requests[0], timeout=max(_FIRST_CALL_S, plan.deadline_s), metadata=metadata())
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                raise CommandFailed(
                    f"{plan.address}: {workload.rpc} failed: {failure.code.name}: {failure.message}"
                ) from None
