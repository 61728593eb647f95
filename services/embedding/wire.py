"""Conversion between the messages of the embedding service and the values of its domain."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from sluice.common.v1 import model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.errors import InvalidRequest, Violation

from services.core.arrays import F32
from services.core.representation import Aggregation, binarize, quantize_int8
from services.embedding.encoder import Embeddings, EncodeOptions, Windows
from services.inference.bundle import Manifest, Representation, Role
from services.inference.catalog import model_ref
from services.inference.loader import Model
from services.inference.tokenizer import Token
from services.inference.tokens import byte_positions
from services.inference.wire import truncation, usage
from services.rpc.tensor import to_tensor, type_name
from services.rpc.validation import Violations

_NAMES: Final[dict[pb.Representation.ValueType, Representation]] = {
    pb.REPRESENTATION_DENSE: "dense",
    pb.REPRESENTATION_SPARSE: "sparse",
    pb.REPRESENTATION_MULTI_VECTOR: "multi_vector",
}
_NUMBERS: Final = {name: number for number, name in _NAMES.items()}
_AGGREGATIONS: Final[dict[int, Aggregation]] = {
    model_pb2.WINDOW_AGGREGATION_UNSPECIFIED: "mean",
    model_pb2.WINDOW_AGGREGATION_MEAN: "mean",
    model_pb2.WINDOW_AGGREGATION_MAX: "max",
}


_ROLES: Final[dict[int, Role]] = {
    model_pb2.TEXT_ROLE_UNSPECIFIED: "plain",
    model_pb2.TEXT_ROLE_QUERY: "query",
    model_pb2.TEXT_ROLE_DOCUMENT: "document",
}


def _int8_tensor(vectors: F32) -> tensor_pb2.Tensor:
    integers, scales = quantize_int8(vectors)
    tensor = to_tensor(integers)
    tensor.row_scales.extend(scales.tolist())
    return tensor


def _bits_tensor(vectors: F32) -> tensor_pb2.Tensor:
    data = binarize(vectors).tobytes()
    return tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_BITS, shape=vectors.shape, data=data)


_TENSORS: Final[dict[int, Callable[[F32], tensor_pb2.Tensor]]] = {
    tensor_pb2.DATA_TYPE_UNSPECIFIED: to_tensor,
    tensor_pb2.DATA_TYPE_FLOAT32: to_tensor,
    tensor_pb2.DATA_TYPE_FLOAT16: lambda vectors: to_tensor(vectors.astype(np.float16)),
    tensor_pb2.DATA_TYPE_INT8: _int8_tensor,
    tensor_pb2.DATA_TYPE_BITS: _bits_tensor,
}
_BITS: Final[dict[int, int]] = {
    tensor_pb2.DATA_TYPE_UNSPECIFIED: 32,
    tensor_pb2.DATA_TYPE_FLOAT32: 32,
    tensor_pb2.DATA_TYPE_FLOAT16: 16,
    tensor_pb2.DATA_TYPE_INT8: 8,
    tensor_pb2.DATA_TYPE_BITS: 1,
}
_TOKEN_TYPES: Final = (
    tensor_pb2.DATA_TYPE_UNSPECIFIED,
    tensor_pb2.DATA_TYPE_FLOAT32,
    tensor_pb2.DATA_TYPE_FLOAT16,
)


def encode_options(request: pb.EmbedRequest, model: Model, violations: Violations) -> EncodeOptions:
    """Return how to encode; add violations of the request."""
    manifest = model.bundle.manifest
    wanted = _representations(request, manifest, violations)
    if request.role == model_pb2.TEXT_ROLE_UNSPECIFIED and manifest.query_prompt != manifest.document_prompt:
        violations.add("role", f"expected QUERY or DOCUMENT, which differ for {model.name}, got none")
    check_dimensions(request.dimensions, model, violations)
    if request.data_type not in _TENSORS or ("multi_vector" in wanted and request.data_type not in _TOKEN_TYPES):
        types = "FLOAT32 or FLOAT16" if "multi_vector" in wanted else "FLOAT32, FLOAT16, INT8 or BITS"
        violations.add("data_type", f"expected {types}, got {type_name(request.data_type)}")
    role: Role = "query" if role_of(request.role, violations) == "query" else "document"
    windows = _windows(request, violations)
    return EncodeOptions(role, wanted, truncation(request.truncation, violations), windows, request.dimensions)


def check_dimensions(dimensions: int, model: Model, violations: Violations) -> None:
    """Add a violation if the model has no dense vectors of this length; 0 stands for the whole vector."""
    manifest = model.bundle.manifest
    allowed = (0, *manifest.matryoshka_dimensions, manifest.dimensions)
    if dimensions not in allowed:
        lengths = ", ".join(map(str, sorted(set(allowed) - {0})))
        violations.add("dimensions", f"expected one of {lengths}, which {model.name} has, got {dimensions}")


def _representations(request: pb.EmbedRequest, manifest: Manifest, violations: Violations) -> frozenset[Representation]:
    names: set[Representation] = set()
    count = len(request.representations)
    if not violations.count("representations", count, low=0, high=len(_NAMES), what="representations"):
        return frozenset()
    for position, number in enumerate(request.representations or [pb.REPRESENTATION_DENSE]):
        name = _NAMES.get(number)
        if name is None or name not in manifest.representations:
            expected, given = ", ".join(manifest.representations), name or f"number {number}"
            violations.add(f"representations[{position}]", f"expected one of {expected}, got {given}")
        else:
            names.add(name)
    return frozenset(names)


def _windows(request: pb.EmbedRequest, violations: Violations) -> Windows | None:
    if not request.HasField("windows"):
        return None
    if request.truncation:
        violations.add("truncation", "expected none together with windows, which drop nothing, got one")
    if request.windows.aggregation not in _AGGREGATIONS:
        violations.add("windows.aggregation", f"expected MEAN or MAX, got number {request.windows.aggregation}")
        return None
    return Windows(request.windows.overlap_token_count, _AGGREGATIONS[request.windows.aggregation])


def check_size(byte_count: int, *, data_type: int, most_bytes: int) -> None:
    """Raise InvalidRequest if vectors of so many bytes, as float32, exceed the size of a message."""
    size = byte_count * _BITS[data_type] // 32
    if size > most_bytes:
        advice = "send fewer texts, or ask for a smaller data_type"
        description = f"expected texts with at most {most_bytes:,} bytes of vectors, got {size:,}: {advice}"
        raise InvalidRequest(f"texts: {description}", violations=[Violation("texts", description)])


def response_of(model: Model, embeddings: Embeddings, data_type: int) -> pb.EmbedResponse:
    """Return the response, with vectors of the requested type."""
    response = pb.EmbedResponse(model=model_ref(model), usage=map(usage, embeddings.inputs))
    if embeddings.dense:
        response.dense.CopyFrom(_TENSORS[data_type](np.stack(embeddings.dense)))
    if embeddings.sparse:
        indices, weights = zip(*embeddings.sparse, strict=True)
        response.sparse.CopyFrom(
            tensor_pb2.SparseVectors(
                indices=to_tensor(np.concatenate(indices)),
                weights=to_tensor(np.concatenate(weights)),
                term_counts=map(len, indices),
            )
        )
    if embeddings.multi_vector:
        tokens = _TENSORS[data_type](np.concatenate(embeddings.multi_vector))
        counts = map(len, embeddings.multi_vector)
        response.multi_vector.CopyFrom(tensor_pb2.MultiVectors(tokens=tokens, token_counts=counts))
    return response


def describe(model: Model) -> pb.EmbeddingModel:
    """Return the entry of a model in the response of ListModels."""
    manifest = model.bundle.manifest
    return pb.EmbeddingModel(
        model=model_ref(model),
        representations=[_NUMBERS[name] for name in manifest.representations],
        dimensions=manifest.dimensions,
        max_token_count=manifest.max_token_count,
        similarity=manifest.similarity,
        query_prompt=manifest.query_prompt,
        document_prompt=manifest.document_prompt,
        execution_provider=model.session.execution_provider,
        variant=model.session.variant,
        matryoshka_dimensions=manifest.matryoshka_dimensions,
    )


def role_of(number: int, violations: Violations) -> Role:
    """Return the role whose prompt is wanted, plain for none; add a violation for an unknown one."""
    if number not in _ROLES:
        violations.add("role", f"expected QUERY, DOCUMENT or none, got number {number}")
    return _ROLES.get(number, "plain")


def tokenized_text(text: str, tokens: Sequence[Token]) -> pb.TokenizedText:
    """Return the tokens of a text as a message."""
    at = byte_positions(text)
    return pb.TokenizedText(
        tokens=[
            pb.Token(
                id=token.id,
                text=token.text,
                special=token.is_special,
                byte_start=int(at[token.start]),
                byte_end=int(at[token.end]),
                char_start=token.start,
                char_end=token.end,
            )
            for token in tokens
        ]
    )
