"""EmbeddingService over gRPC."""

from collections.abc import Sequence
from functools import partial

from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    add_EmbeddingServiceServicer_to_server,
)

from services.embedding.encoder import EncodeOptions, encode
from services.embedding.settings import EmbeddingSettings
from services.embedding.wire import check_size, describe, encode_options, response_of, role_of, tokenized_text
from services.inference.catalog import Catalog, model_ref
from services.inference.loader import Model
from services.inference.management import ModelManagement
from services.inference.metrics import SERIALIZE
from services.inference.tokens import MAX_INPUT, check_ids, check_texts, join, split
from services.inference.wire import INLINE_BYTES, schedule
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service
from services.rpc.server.offloading import offload
from services.rpc.validation import Violations, validating


class EmbeddingServicer(ModelManagement, EmbeddingServiceServicer):
    """Serves the models of a catalog."""

    def __init__(self, catalog: Catalog, settings: EmbeddingSettings) -> None:
        super().__init__(catalog, pb, describe)
        self._settings = settings

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
        return Service(
            name, lambda server: add_EmbeddingServiceServicer_to_server(self, server), problem=self._catalog.problem
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embed texts."""
        with self._catalog.using(request.model) as model:
            options = self._validate(request, model)
            when = schedule(request.lane, context, max_s=self._settings.max_deadline_s)
            most = self._settings.max_message_bytes
            check_bytes = partial(check_size, data_type=request.data_type, most_bytes=most)
            embeddings = await encode(model, list(request.texts), options, when, check_bytes=check_bytes)
            with SERIALIZE.labels(model.name).time():
                check_bytes(embeddings.byte_count)
                work = partial(response_of, model, embeddings, request.data_type)
                return await offload(work, size=embeddings.byte_count, inline=INLINE_BYTES)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Split texts into tokens."""
        with self._catalog.using(request.model) as model:
            with validating() as violations:
                if self._check_texts(request.texts, violations):
                    check_texts(request.texts, violations, field="texts")
                prompt = model.bundle.manifest.prompt_of(role_of(request.role, violations))
            texts = [prompt + text for text in request.texts]
            found = await split(model, texts, special=request.add_special_tokens, convert=tokenized_text)
            return pb.TokenizeResponse(model=model_ref(model), texts=found)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Join tokens into texts."""
        with self._catalog.using(request.model) as model:
            sequences = self._sequences(request, model)
            texts = await join(model, sequences, skip_special=request.skip_special_tokens)
            return pb.DecodeResponse(model=model_ref(model), texts=texts)

    def _sequences(self, request: pb.DecodeRequest, model: Model) -> list[Sequence[int]]:
        """Return the ids of each sequence. Raises InvalidRequest."""
        most, given = self._settings.max_texts, request.sequences
        with validating() as violations:
            if not violations.count("sequences", len(given), low=1, high=most, what="sequences"):
                return []
            sequences: list[Sequence[int]] = [sequence.ids for sequence in given]
            if violations.count("sequences", sum(map(len, sequences)), low=0, high=MAX_INPUT, what="ids together"):
                for position, ids in enumerate(sequences):
                    check_ids(ids, model, violations, field=f"sequences[{position}].ids")
            return sequences

    def _check_texts(self, texts: Sequence[str], violations: Violations) -> bool:
        """Add violations of texts, and return whether their number is in range."""
        if not violations.count("texts", len(texts), low=1, high=self._settings.max_texts, what="texts"):
            return False
        for position, text in enumerate(texts):
            violations.text(f"texts[{position}]", text, max_bytes=self._settings.max_text_bytes)
        return True

    def _validate(self, request: pb.EmbedRequest, model: Model) -> EncodeOptions:
        """Return how to encode. Raises InvalidRequest."""
        with validating() as violations:
            self._check_texts(request.texts, violations)
            return encode_options(request, model, violations)
