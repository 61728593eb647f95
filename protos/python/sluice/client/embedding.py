"""The client of the embedding service."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Literal

from sluice.client.calls import AsyncClient, Client
from sluice.client.tensors import float32_view, rows
from sluice.common.v1.model_pb2 import Lane, ModelRef, TextRole, TextUsage
from sluice.common.v1.tensor_pb2 import SparseVectors
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceAsyncStub

Role = Literal["query", "document"]
Representation = Literal["dense", "sparse", "multi_vector"]
LaneName = Literal["interactive", "bulk"]

# `encode` sends a long list in calls of so many texts, so many at a time: enough to keep a server's batches full.
_ENCODE_TEXTS: Final = 64
_ENCODE_CALLS: Final = 4
# Longest time of one of those calls, in seconds, retries included: bulk work may wait for its turn.
_ENCODE_TIMEOUT_S: Final = 120.0


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

    def encode(self, sentences: str | Sequence[str], *, role: Role = "document", model: str = "") -> "NDArray[Any]":
        """Vectors as sentence-transformers gives them: float32 [D] for one text, [N, D] for a list of any length.

        A list goes in the bulk lane, which leaves the machine to queries; one text goes before it. Needs numpy.
        Raises SluiceError.
        """
        import numpy as np  # noqa: PLC0415 - the base installation has none, and nothing else here needs it

        if isinstance(sentences, str):
            vector: NDArray[Any] = np.asarray(self.embed([sentences], role, model=model).dense)[0]
            return vector
        embed = partial(self.embed, role=role, model=model, lane="bulk", timeout_s=_ENCODE_TIMEOUT_S)
        parts = [sentences[at : at + _ENCODE_TEXTS] for at in range(0, len(sentences), _ENCODE_TEXTS)]
        with ThreadPoolExecutor(_ENCODE_CALLS) as threads:
            blocks = [np.asarray(answer.dense) for answer in threads.map(embed, parts)]
        return np.concatenate(blocks) if blocks else np.empty((0, 0), dtype=np.float32)

    def encode_query(self, sentences: str | Sequence[str], *, model: str = "") -> "NDArray[Any]":
        """`encode`, as queries."""
        return self.encode(sentences, role="query", model=model)

    def encode_document(self, sentences: str | Sequence[str], *, model: str = "") -> "NDArray[Any]":
        """`encode`, as documents."""
        return self.encode(sentences, role="document", model=model)

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
