"""Embedding of texts for all API dialects, split into as many calls as needed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sluice.client.documents import unfit
from sluice.common.v1 import model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.errors import InvalidRequest

from services.core.arrays import F32
from services.core.batching import BatchLimits, batches
from services.gateway.http.errors import rename_fields
from services.gateway.http.models import Many
from services.gateway.upstream.caller import Caller

DENSE: Final = pb.REPRESENTATION_DENSE
SPARSE: Final = pb.REPRESENTATION_SPARSE
MULTI_VECTOR: Final = pb.REPRESENTATION_MULTI_VECTOR
ROLES: Final = {
    "query": model_pb2.TEXT_ROLE_QUERY,
    "document": model_pb2.TEXT_ROLE_DOCUMENT,
    "passage": model_pb2.TEXT_ROLE_DOCUMENT,
}
"""Roles of texts, by their names in the APIs of OpenAI and TEI."""
CALL_TOKENS: Final = 262_144
"""Most token ids in one call to Decode, and most characters in one call to Tokenize."""
# The services' default limit of texts in one call. The bytes are well below the limit of a message.
_EMBED_CALL: Final = BatchLimits(max_count=256, max_weight=4 * 2**20)
_DECODE_CALL: Final = BatchLimits(max_count=256, max_weight=CALL_TOKENS)
# Memory that a byte of a response takes until it is sent: the array and its JSON.
_RESPONSE_COPIES: Final = 4

Inputs = str | Many[str] | Many[int] | Many[Many[int]]
"""A text, several texts, the token ids of a text, or the token ids of several texts."""


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed texts."""

    model: str = ""
    role: model_pb2.TextRole.ValueType = model_pb2.TEXT_ROLE_DOCUMENT
    representation: pb.Representation.ValueType = DENSE
    truncation: model_pb2.Truncation.ValueType = model_pb2.TRUNCATION_END
    dimensions: int = 0


@dataclass
class Embeddings:
    """Vectors of texts, in the order of the texts. Only the requested representation has values."""

    model: str = ""
    dense: list[F32] = field(default_factory=list)
    """float32[D] for each text."""
    sparse: list[tuple[NDArray[np.int32], F32]] = field(default_factory=list)
    """int32[K] term ids and float32[K] weights for each text."""
    multi_vector: list[F32] = field(default_factory=list)
    """float32[T, D] for each text."""
    token_count: int = 0


async def to_texts(caller: Caller, inputs: Inputs, *, field: str, model: str = "") -> list[str]:
    """Return the texts of an input. Token ids are decoded by the model, without special tokens.

    Raises InvalidRequest if there are no texts, too many, or token ids that the model does not have.
    """
    most = caller.upstream.settings.max_inputs
    if isinstance(inputs, str):
        return [inputs]
    items: list[Any] = [inputs] if inputs and isinstance(inputs[0], int) else inputs
    if not 1 <= len(items) <= most:
        raise unfit(field, f"expected 1 to {most:,} texts, got {len(items):,}")
    if isinstance(items[0], str):
        return items
    return await decode(caller, items, field=field, model=model)


async def decode(
    caller: Caller, sequences: Sequence[Sequence[int]], *, field: str, model: str = "", skip_special: bool = True
) -> list[str]:
    """Return the texts of token ids. Raises SluiceError, whose violations name `field` and the position in it."""
    most = caller.upstream.settings.max_inputs
    if not 1 <= len(sequences) <= most:
        raise unfit(field, f"expected 1 to {most:,} sequences of token ids, got {len(sequences):,}")
    most_ids = max(map(len, sequences))
    if most_ids > CALL_TOKENS:
        raise unfit(field, f"expected at most {CALL_TOKENS:,} token ids per text, got {most_ids:,}")
    caller.rights.pay_texts(len(sequences))
    texts: list[str] = []
    start = 0
    for part in batches(sequences, _DECODE_CALL, len):
        if any(not 0 <= number < 2**32 for ids in part for number in ids):
            raise unfit(field, "expected token ids from 0 to 4,294,967,295, got one outside this range")
        ids = [pb.TokenIds(ids=ids) for ids in part]
        request = pb.DecodeRequest(model=model, sequences=ids, skip_special_tokens=skip_special)
        try:
            texts += (await caller.call(caller.upstream.embedding.Decode, request)).texts
        except InvalidRequest as error:
            raise rename_fields(error, partial(_sequence_field, field, start)) from None
        start += len(part)
    return texts


async def embed(caller: Caller, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
    """Return the vectors of texts. Raises SluiceError, whose violations name positions in `texts`."""
    is_bulk = len(texts) > caller.upstream.settings.interactive_inputs
    lane = model_pb2.LANE_BULK if is_bulk else model_pb2.LANE_INTERACTIVE
    embeddings = Embeddings()
    caller.check_sizes("texts", texts)
    caller.rights.pay_texts(len(texts))
    start = 0
    for part in batches(texts, _EMBED_CALL, _max_bytes):
        request = pb.EmbedRequest(
            model=options.model,
            texts=part,
            role=options.role,
            representations=[options.representation],
            truncation=options.truncation,
            lane=lane,
            dimensions=options.dimensions,
        )
        try:
            response = await caller.call(caller.upstream.embedding.Embed, request)
        except InvalidRequest as error:
            raise _shift_positions(error, start) from None
        caller.response_share.add(_RESPONSE_COPIES * response.ByteSize())
        _append(embeddings, response)
        start += len(part)
    return embeddings


def _max_bytes(text: str) -> int:
    """Return the most bytes that a text can have in UTF-8."""
    return 4 * len(text)


def _append(embeddings: Embeddings, response: pb.EmbedResponse) -> None:
    embeddings.model = response.model.name
    embeddings.token_count += sum(usage.token_count for usage in response.usage)
    if response.HasField("dense"):
        embeddings.dense.extend(_floats(response.dense))
    if response.HasField("sparse"):
        indices = np.frombuffer(response.sparse.indices.data, "<i4")
        weights = np.frombuffer(response.sparse.weights.data, "<f4")
        ends = np.cumsum(response.sparse.term_counts)[:-1]
        embeddings.sparse.extend(zip(np.split(indices, ends), np.split(weights, ends), strict=True))
    if response.HasField("multi_vector"):
        ends = np.cumsum(response.multi_vector.token_counts)[:-1]
        embeddings.multi_vector.extend(np.split(_floats(response.multi_vector.tokens), ends))


def _floats(tensor: tensor_pb2.Tensor) -> F32:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def _shift_positions(error: InvalidRequest, start: int) -> InvalidRequest:
    """Return the error of one call with positions among all texts. `start` is the position of the call's first text."""
    if not start or not error.violations:
        return error
    return rename_fields(error, lambda name: re.sub(r"^texts\[(\d+)\]", lambda m: f"texts[{start + int(m[1])}]", name))


def _sequence_field(field: str, start: int, name: str) -> str:
    """Return `input[300][2]` for `sequences[44].ids[2]` of a call whose first sequence is number 256."""
    return re.sub(
        r"^sequences(?:\[(\d+)\])?(?:\.ids)?", lambda m: field + (f"[{start + int(m[1])}]" if m[1] else ""), name
    )
