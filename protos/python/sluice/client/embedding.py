"""Clients of the embedding service."""

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

# Texts in each call of `encode`, and calls at a time. Enough to keep the batches of a server full.
_ENCODE_TEXTS: Final = 64
_ENCODE_CALLS: Final = 4
# Timeout of each call of `encode`, in seconds, retries included. Long, because bulk work may wait.
_ENCODE_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts, in the order of the texts.

    The views share the memory of the response, and `numpy.asarray` does not copy them.
    """

    model: ModelRef
    """The model that computed the vectors."""
    usage: tuple[TextUsage, ...]
    """Token counts and truncation of each text."""
    dense: "memoryview[float] | None"
    """float32[N, D], if requested."""
    multi_vector: "tuple[memoryview[float], ...]"
    """float32[T, D] for each text, if requested."""
    sparse: SparseVectors | None
    """Weighted terms, if requested."""


class EmbeddingClient(Client):
    """A client of the embedding service, which turns texts into vectors."""

    # Generated from AsyncEmbeddingClient by protos/unasync.py; do not edit.

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
        """Return the vectors of texts. `model` may be empty if the server has only one. Raises SluiceError."""
        request = _request(texts, role, model, representations, lane)
        return _embeddings(self._call(self._stub.Embed, request, timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[pb.EmbeddingModel]:
        """Return the served models, by name. Raises SluiceError."""
        return list(self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s).models)

    # End of the generated code.

    def encode(self, sentences: str | Sequence[str], *, role: Role = "document", model: str = "") -> "NDArray[Any]":
        """Return vectors as sentence-transformers does: float32[D] for a text, float32[N, D] for a list of any length.

        A list uses the bulk lane, in which queries of other callers take priority. A text uses the interactive lane.
        Needs numpy. Raises SluiceError.
        """
        import numpy as np  # noqa: PLC0415 - numpy is optional

        if isinstance(sentences, str):
            vector: NDArray[Any] = np.asarray(self.embed([sentences], role, model=model).dense)[0]
            return vector
        embed = partial(self.embed, role=role, model=model, lane="bulk", timeout_s=_ENCODE_TIMEOUT_S)
        parts = [sentences[at : at + _ENCODE_TEXTS] for at in range(0, len(sentences), _ENCODE_TEXTS)]
        with ThreadPoolExecutor(_ENCODE_CALLS) as threads:
            blocks = [np.asarray(answer.dense) for answer in threads.map(embed, parts)]
        return np.concatenate(blocks) if blocks else np.empty((0, 0), dtype=np.float32)

    def encode_query(self, sentences: str | Sequence[str], *, model: str = "") -> "NDArray[Any]":
        """Return the vectors of queries, as `encode` does."""
        return self.encode(sentences, role="query", model=model)

    def encode_document(self, sentences: str | Sequence[str], *, model: str = "") -> "NDArray[Any]":
        """Return the vectors of documents, as `encode` does."""
        return self.encode(sentences, role="document", model=model)


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
        """Return the vectors of texts. `model` may be empty if the server has only one. Raises SluiceError."""
        request = _request(texts, role, model, representations, lane)
        return _embeddings(await self._call(self._stub.Embed, request, timeout_s))

    async def models(self, *, timeout_s: float | None = None) -> list[pb.EmbeddingModel]:
        """Return the served models, by name. Raises SluiceError."""
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
