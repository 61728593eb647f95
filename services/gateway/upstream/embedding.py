"""Texts to vectors for every shape: in as many calls as it takes, answered as arrays."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from sluice.client.documents import unfit
from sluice.common.v1 import model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.errors import InvalidRequest

from services.core.arrays import F32
from services.gateway.http.errors import rename_fields
from services.gateway.http.models import Many
from services.gateway.upstream.caller import Caller

DENSE: Final = pb.REPRESENTATION_DENSE
SPARSE: Final = pb.REPRESENTATION_SPARSE
MULTI_VECTOR: Final = pb.REPRESENTATION_MULTI_VECTOR
# What one call takes by default, and well under the size of a message.
_CALL_TEXTS: Final = 256
_CALL_BYTES: Final = 4 * 2**20
CALL_TOKENS: Final = 262_144
"""Most ids to decode in one call, and most bytes to tokenize."""
# Bytes that a byte of a vector takes until it is sent: itself, and its part of the JSON.
_ANSWER_SIZE: Final = 4

T = TypeVar("T")

Inputs = str | Many[str] | Many[int] | Many[Many[int]]
"""One text, several, one text's token ids, several texts' token ids."""


@dataclass(frozen=True)
class EmbedOptions:
    """What to make of the texts."""

    model: str = ""
    role: model_pb2.TextRole.ValueType = model_pb2.TEXT_ROLE_DOCUMENT
    representation: pb.Representation.ValueType = DENSE
    truncation: model_pb2.Truncation.ValueType = model_pb2.TRUNCATION_END
    dimensions: int = 0


@dataclass
class Embeddings:
    """Vectors of texts, in their order; of the kind that was asked for."""

    model: str = ""
    dense: list[F32] = field(default_factory=list)
    """float32[D], one a text."""
    sparse: list[tuple[NDArray[np.int32], F32]] = field(default_factory=list)
    """int32[K] and float32[K], one pair a text."""
    multi_vector: list[F32] = field(default_factory=list)
    """float32[T, D], one a text."""
    token_count: int = 0


async def to_texts(caller: Caller, inputs: Inputs, *, field: str, model: str = "") -> list[str]:
    """The texts of an input. Token ids are decoded by the model, special tokens left out: Embed takes texts.

    Raises InvalidRequest for none, too many, and ids that the model does not have.
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
    """The texts of token ids. Raises SluiceError, which names `field` and the position among all."""
    most = caller.upstream.settings.max_inputs
    if not 1 <= len(sequences) <= most:
        raise unfit(field, f"expected 1 to {most:,} sequences of token ids, got {len(sequences):,}")
    most_ids = max(map(len, sequences))
    if most_ids > CALL_TOKENS:
        raise unfit(field, f"expected at most {CALL_TOKENS:,} token ids of a text, got {most_ids:,}")
    caller.rights.pay_texts(len(sequences))
    texts: list[str] = []
    for start, part in _parts(sequences, len, CALL_TOKENS):
        if any(not 0 <= number < 2**32 for ids in part for number in ids):
            raise unfit(field, "expected token ids of 0 or more, got one that no vocabulary has")
        ids = [pb.TokenIds(ids=ids) for ids in part]
        request = pb.DecodeRequest(model=model, sequences=ids, skip_special_tokens=skip_special)
        try:
            texts += (await caller.call(caller.upstream.embedding.Decode, request)).texts
        except InvalidRequest as error:
            raise rename_fields(error, partial(_sequence, field, start)) from None
    return texts


async def embed(caller: Caller, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
    """The vectors of texts. Raises SluiceError, which names a text by its position among all of them."""
    is_bulk = len(texts) > caller.upstream.settings.interactive_inputs
    lane = model_pb2.LANE_BULK if is_bulk else model_pb2.LANE_INTERACTIVE
    embedded = Embeddings()
    caller.check_sizes("texts", texts)
    caller.rights.pay_texts(len(texts))
    for start, part in _parts(texts, _bytes_at_most, _CALL_BYTES):
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
        caller.response_share.add(_ANSWER_SIZE * response.ByteSize())
        _append(embedded, response)
    return embedded


def _parts(items: Sequence[T], weigh: Callable[[T], int], most: int) -> Iterator[tuple[int, list[T]]]:
    """Items in parts that one call takes, each with the position of its first."""
    part: list[T] = []
    start = weight = 0
    for position, item in enumerate(items):
        if part and (len(part) == _CALL_TEXTS or weight + weigh(item) > most):
            yield start, part
            part, start, weight = [], position, 0
        part.append(item)
        weight += weigh(item)
    yield start, part


def _bytes_at_most(text: str) -> int:
    return 4 * len(text)


def _append(embedded: Embeddings, response: pb.EmbedResponse) -> None:
    embedded.model = response.model.name
    embedded.token_count += sum(usage.token_count for usage in response.usage)
    if response.HasField("dense"):
        embedded.dense.extend(_floats(response.dense))
    if response.HasField("sparse"):
        indices = np.frombuffer(response.sparse.indices.data, "<i4")
        weights = np.frombuffer(response.sparse.weights.data, "<f4")
        ends = np.cumsum(response.sparse.term_counts)[:-1]
        embedded.sparse.extend(zip(np.split(indices, ends), np.split(weights, ends), strict=True))
    if response.HasField("multi_vector"):
        ends = np.cumsum(response.multi_vector.token_counts)[:-1]
        embedded.multi_vector.extend(np.split(_floats(response.multi_vector.tokens), ends))


def _floats(tensor: tensor_pb2.Tensor) -> F32:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def _shift_positions(error: InvalidRequest, start: int) -> InvalidRequest:
    """The error of a part, with the positions that its texts have among all."""
    if not start or not error.violations:
        return error
    return rename_fields(error, lambda name: re.sub(r"^texts\[(\d+)\]", lambda m: f"texts[{start + int(m[1])}]", name))


def _sequence(field: str, start: int, name: str) -> str:
    """`input[300][2]` of `sequences[44].ids[2]` in the part that begins at 256."""
    return re.sub(
        r"^sequences(?:\[(\d+)\])?(?:\.ids)?", lambda m: field + (f"[{start + int(m[1])}]" if m[1] else ""), name
    )
