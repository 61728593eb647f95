"""The client of the embedding service."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from sluice.client.calls import AsyncClient, Client
from sluice.client.tensors import float32_view, rows
from sluice.common.v1.model_pb2 import Lane, ModelRef, TextRole, TextUsage
from sluice.common.v1.tensor_pb2 import SparseVectors
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

if TYPE_CHECKING:
    from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceAsyncStub

Role = Literal["query", "document"]
Representation = Literal["dense", "sparse", "multi_vector"]
LaneName = Literal["interactive", "bulk"]


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts, in their order. Views share the memory of the response; `numpy.asarray` makes no copy."""

    model: ModelRef
    """The model that made them."""
    usage: tuple[TextUsage, ...]
    """Token counts and truncation of each text."""
    dense: "memoryview[float] | None"
    """float32 [texts, dimensions], when asked for."""
    multi_vector: "tuple[memoryview[float], ...]"
    """float32 [tokens, dimensions] for each text, when asked for."""
    sparse: SparseVectors | None
    """Weighted terms, when asked for."""


class EmbeddingClient(Client):
    """Turns texts into vectors."""

    @cached_property
    def _stub(self) -> EmbeddingServiceStub:
        return EmbeddingServiceStub(self._channel)

    def embed(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        model: str = "",
        representations: Iterable[Representation] = ("dense",),
        lane: LaneName = "interactive",
        timeout_s: float | None = None,
    ) -> Embeddings:
        """The vectors of texts. `model` may be empty when the server has one. Raises SluiceError."""
        return _embeddings(self._call(self._stub.Embed, _request(texts, role, model, representations, lane), timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[pb.EmbeddingModel]:
        """The models served, by name. Raises SluiceError."""
        return list(self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s).models)


class AsyncEmbeddingClient(AsyncClient):
    """`EmbeddingClient` for asyncio."""

    @cached_property
    def _stub(self) -> "EmbeddingServiceAsyncStub":
        return EmbeddingServiceStub(self._channel)

    async def embed(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        model: str = "",
        representations: Iterable[Representation] = ("dense",),
        lane: LaneName = "interactive",
        timeout_s: float | None = None,
    ) -> Embeddings:
        """The vectors of texts. `model` may be empty when the server has one. Raises SluiceError."""
        request = _request(texts, role, model, representations, lane)
        return _embeddings(await self._call(self._stub.Embed, request, timeout_s))

    async def models(self, *, timeout_s: float | None = None) -> list[pb.EmbeddingModel]:
        """The models served, by name. Raises SluiceError."""
        return list((await self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)).models)


def _request(
    texts: Sequence[str], role: Role, model: str, representations: Iterable[Representation], lane: LaneName
) -> pb.EmbedRequest:
    return pb.EmbedRequest(
        model=model,
        texts=texts,
        role=TextRole.Value(f"TEXT_ROLE_{role.upper()}"),
        representations=[pb.Representation.Value(f"REPRESENTATION_{kind.upper()}") for kind in representations],
        lane=Lane.Value(f"LANE_{lane.upper()}"),
    )


def _embeddings(response: pb.EmbedResponse) -> Embeddings:
    multi_vector = response.multi_vector
    return Embeddings(
        model=response.model,
        usage=tuple(response.usage),
        dense=float32_view(response.dense) if response.HasField("dense") else None,
        multi_vector=tuple(rows(multi_vector.tokens, multi_vector.token_counts)),
        sparse=response.sparse if response.HasField("sparse") else None,
    )
