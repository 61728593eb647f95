"""The client of the embedding service."""

import re
from collections.abc import Sequence

import grpc
from sluice.common.v1 import model_pb2
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import BackendFailed, InvalidRequest, PreconditionFailed, Violation

from services.orchestrator.downstream.schemas import REPRESENTATIONS, EmbeddingModel, Windows
from services.orchestrator.downstream.vectors import EmbeddingBatch, Kind
from services.rpc.client.downstream import Downstream
from services.rpc.deadline import Deadline


class EmbeddingClient:
    """Calls the embedding service and checks its responses. Raises BackendFailed for a response that is invalid."""

    def __init__(self, channel: grpc.aio.Channel, downstream: Downstream) -> None:
        self._stub = EmbeddingServiceStub(channel)
        self._downstream = downstream

    async def embed_queries(
        self, texts: Sequence[str], *, model: str, kinds: Sequence[Kind], deadline: Deadline, patient: bool
    ) -> EmbeddingBatch:
        """Return the vectors of queries. `patient` waits for a service that is unavailable."""
        request = pb.EmbedRequest(
            model=model, texts=texts, role=model_pb2.TEXT_ROLE_QUERY, lane=model_pb2.LANE_INTERACTIVE
        )
        try:
            return await self._embed(request, kinds, deadline, patient=patient)
        except InvalidRequest as error:
            raise _query_error(error) from None

    async def embed_documents(
        self, texts: Sequence[str], *, model: str, kinds: Sequence[Kind], windows: Windows | None, deadline: Deadline
    ) -> EmbeddingBatch:
        """Return the vectors of documents, embedded in the bulk lane.

        windows  how to read documents over the model's limit; None truncates them
        """
        request = pb.EmbedRequest(
            model=model, texts=texts, role=model_pb2.TEXT_ROLE_DOCUMENT, lane=model_pb2.LANE_BULK, windows=windows
        )
        return await self._embed(request, kinds, deadline, patient=True)

    async def models(self, deadline: Deadline, *, patient: bool = True) -> list[EmbeddingModel]:
        """Return the models that the service serves, by name."""
        response = await self._downstream.call(self._stub.ListModels, pb.ListModelsRequest(), deadline, patient=patient)
        return list(response.models)

    async def token_spans(
        self, texts: Sequence[str], *, model: str, deadline: Deadline, as_document: bool = False
    ) -> list[list[tuple[int, int]]]:
        """Return the start and end of each token of each text, in characters.

        as_document  include the special tokens and the prompt that a document gets
        """
        role = model_pb2.TEXT_ROLE_DOCUMENT if as_document else model_pb2.TEXT_ROLE_UNSPECIFIED
        request = pb.TokenizeRequest(model=model, texts=texts, role=role, add_special_tokens=as_document)
        response = await self._downstream.call(self._stub.Tokenize, request, deadline, patient=True)
        if len(response.texts) != len(texts):
            raise BackendFailed(f"embedding: expected tokens of {len(texts)} texts, got {len(response.texts)}")
        return [[(token.char_start, token.char_end) for token in text.tokens] for text in response.texts]

    async def _embed(
        self, request: pb.EmbedRequest, kinds: Sequence[Kind], deadline: Deadline, *, patient: bool
    ) -> EmbeddingBatch:
        request.representations.extend(REPRESENTATIONS[kind] for kind in kinds)
        response = await self._downstream.call(self._stub.Embed, request, deadline, patient=patient)
        return EmbeddingBatch(
            len(request.texts),
            tuple(kinds),
            response.model,
            response.dense,
            response.sparse,
            response.multi_vector,
            tuple(usage.dropped_token_count for usage in response.usage),
        )


def _query_error(error: InvalidRequest) -> InvalidRequest | PreconditionFailed | BackendFailed:
    """Return the error for the caller of a search.

    Rejected texts are named by the fields of the search request. A model that no longer produces the kind of vectors
    is PreconditionFailed. Anything else is BackendFailed, because the orchestrator built the rest of the request.
    """
    violations = []
    for violation in error.violations:
        if violation.field.startswith("representations"):
            return PreconditionFailed(error.message, reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH)
        match = re.fullmatch(r"texts\[(\d+)\]", violation.field)
        if match is None:
            return BackendFailed(error.message, metadata=error.metadata)
        position = int(match[1])
        field = f"more_queries[{position - 1}]" if position else "query"
        violations.append(Violation(field, violation.description))
    return InvalidRequest(error.message, violations=violations, metadata=error.metadata)
