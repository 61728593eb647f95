"""Embedding models as functions of tensors, for clients of KServe v2 and Triton.

Rows of different lengths are padded with zeros on the right, to the longest row of the request. Another output has
their lengths.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sluice.errors import InvalidRequest, Violation

from services.compat.kserve.infer_call import InferCall, InferenceBackend, Outputs, Signature, rows_of, texts_of
from services.compat.kserve.servicer import KserveServicer
from services.compat.kserve.tensors import InputTensor, Spec
from services.core.arrays import F32, I64
from services.embedding.encoder import Embeddings, EncodeOptions, encode, encode_rows
from services.embedding.settings import EmbeddingSettings
from services.embedding.wire import check_dimensions
from services.inference.bundle import Representation, Role
from services.inference.catalog import Catalog
from services.inference.loader import Model
from services.inference.tokenizer import Input
from services.inference.wire import INLINE_BYTES
from services.rpc.server.lifecycle import Service
from services.rpc.server.offloading import offload
from services.rpc.validation import Violations

_INPUTS: Final = (
    Spec("text", "BYTES", (1,), is_optional=True),
    Spec("input_ids", "INT64", (-1,), is_optional=True),
    Spec("attention_mask", "INT64", (-1,), is_optional=True),
)
_REPRESENTATIONS: Final[Mapping[str, Representation]] = {
    "dense": "dense",
    "sparse_indices": "sparse",
    "sparse_weights": "sparse",
    "sparse_counts": "sparse",
    "multi_vector": "multi_vector",
    "multi_vector_counts": "multi_vector",
}
_PARAMETERS: Final = ("dimensions", "embedding_type", "input_type")
_ROLES: Final[Mapping[str, Role]] = {"": "document", "query": "query", "passage": "document", "document": "document"}
_TYPES: Final = {"float": np.dtype(np.float32), "float16": np.dtype(np.float16)}


def kserve_service(catalog: Catalog, settings: EmbeddingSettings) -> Service:
    """Return the service of this API for an embedding server."""
    inference = InferenceBackend(_signature, partial(_infer, settings), _PARAMETERS, settings.max_texts)
    return KserveServicer(catalog, settings, inference).service


def _signature(model: Model) -> Signature:
    """Return texts or ids as inputs, and all representations of the model as outputs."""
    manifest = model.bundle.manifest
    outputs = {
        "dense": Spec("dense", "FP32", (manifest.dimensions,)),
        "sparse_indices": Spec("sparse_indices", "INT32", (-1,)),
        "sparse_weights": Spec("sparse_weights", "FP32", (-1,)),
        "sparse_counts": Spec("sparse_counts", "INT32", (1,)),
        "multi_vector": Spec("multi_vector", "FP32", (-1, manifest.dimensions)),
        "multi_vector_counts": Spec("multi_vector_counts", "INT32", (1,)),
    }
    given = manifest.representations
    return Signature(_INPUTS, [spec for name, spec in outputs.items() if _REPRESENTATIONS[name] in given])


async def _infer(
    settings: EmbeddingSettings, model: Model, call: InferCall, violations: Violations
) -> tuple[Outputs, int]:
    """Return the outputs of texts, or of their ids, and the number of rows.

    Raises InvalidRequest, and the errors of `encode`.
    """
    options = _options(model, call, violations)
    dtype = call.parameters.choice("embedding_type", _TYPES, "float")
    text, ids = (call.tensors.get(name) for name in ("text", "input_ids"))
    mask = call.tensors.get("attention_mask")
    is_one_kind = (text is None) != (ids is None) and (mask is None or text is None)
    if not is_one_kind and not violations:
        violations.add("inputs", "expected text, or input_ids with or without attention_mask, got neither or a mix")
    count = rows_of([one for one in (text, ids, mask) if one is not None], violations)
    texts = [] if text is None else texts_of(text, violations, max_bytes=settings.max_text_bytes)
    rows = [] if ids is None else _rows(ids, mask, model, violations)
    violations.raise_if_any()
    if text is not None:
        embeddings = await encode(model, texts, options, call.schedule, field=f"{text.field}[{{}}]")
    else:
        embeddings = await encode_rows(model, rows, options, call.schedule)
    _check_size(embeddings, settings.max_message_bytes)
    outputs = await offload(partial(_outputs, embeddings, dtype), size=embeddings.byte_count, inline=INLINE_BYTES)
    return outputs, count


def _options(model: Model, call: InferCall, violations: Violations) -> EncodeOptions:
    """Return how to encode; add violations of the parameters."""
    parameters, manifest = call.parameters, model.bundle.manifest
    role = parameters.choice("input_type", _ROLES, "")
    named = parameters.read("input_type", str, "")
    if not named and "text" in call.tensors and manifest.query_prompt != manifest.document_prompt:
        description = f"expected query or passage, which differ for {model.name}, got none"
        violations.add("parameters[input_type]", description)
    dimensions = parameters.read("dimensions", int, 0)
    check_dimensions(dimensions, model, violations)
    representations = frozenset(_REPRESENTATIONS[name] for name in call.wanted)
    return EncodeOptions(role, representations, parameters.truncation, dimensions=dimensions)


def _rows(ids: InputTensor, mask: InputTensor | None, model: Model, violations: Violations) -> list[list[Input]]:
    """Return the rows of token ids, including special tokens; add violations for ids that the model does not accept."""
    values = np.asarray(ids.values)
    lengths = _lengths(values, mask, violations)
    most, size = model.bundle.manifest.max_token_count, model.tokenizer.vocabulary_size
    if (lengths < 1).any() or (lengths > most).any():
        given = int(lengths[(lengths < 1) | (lengths > most)][0])
        violations.add(
            ids.field, f"expected rows of 1 to {most:,} tokens, got {given:,}", expected_max=most, given=given
        )
    used = np.arange(values.shape[1]) < lengths[:, None]
    outside = used & ((values < 0) | (values >= size))
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        description = f"expected ids of 0 to {size - 1:,}, which {model.name} has, got {values[row, column]}"
        violations.add(f"{ids.field}[{row}][{column}]", description, expected_max=size - 1)
    if violations:
        return []
    return [[Input(tuple(row[:length].tolist()))] for row, length in zip(values, lengths, strict=True)]


def _lengths(ids: NDArray[Any], mask: InputTensor | None, violations: Violations) -> I64:
    """Return the number of tokens in each row; add a violation unless a mask has ones and then zeros in each row."""
    if mask is None:
        return np.full(len(ids), ids.shape[1], dtype=np.int64)
    values = np.asarray(mask.values)
    if values.shape != ids.shape:
        violations.add(f"{mask.field}.shape", f"expected {list(ids.shape)} as input_ids, got {list(values.shape)}")
        return np.ones(len(ids), dtype=np.int64)
    lengths: I64 = (values == 1).sum(axis=1)
    if not (values == (np.arange(values.shape[1]) < lengths[:, None])).all():
        violations.add(mask.field, "expected rows of ones and then zeros, as for padding on the right")
    return lengths


def _check_size(embeddings: Embeddings, most_bytes: int) -> None:
    """Raise InvalidRequest if rows of different lengths would exceed the size of a message once they are padded."""
    for name, parts in (
        ("multi_vector", embeddings.multi_vector),
        ("sparse", [weights for _, weights in embeddings.sparse]),
    ):
        size = len(parts) * max((part.nbytes for part in parts), default=0)
        if size > most_bytes:
            description = f"expected rows of {name} that take at most {most_bytes:,} bytes when padded, got {size:,}"
            raise InvalidRequest(f"outputs: {description}", violations=[Violation("outputs", description)])


def _outputs(embeddings: Embeddings, dtype: "np.dtype[Any]") -> Outputs:
    """Return all tensors of the embeddings, with vectors of the requested type."""
    outputs: dict[str, NDArray[Any]] = {}
    if embeddings.dense:
        outputs["dense"] = np.stack(embeddings.dense).astype(dtype, copy=False)
    if embeddings.sparse:
        indices, weights = zip(*embeddings.sparse, strict=True)
        outputs["sparse_indices"] = _pad(indices)
        outputs["sparse_weights"] = _pad(weights).astype(dtype, copy=False)
        outputs["sparse_counts"] = _counts(indices)
    if embeddings.multi_vector:
        outputs["multi_vector"] = _pad(embeddings.multi_vector).astype(dtype, copy=False)
        outputs["multi_vector_counts"] = _counts(embeddings.multi_vector)
    return outputs


def _pad(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return rows [K] or [K, D] as one array [N, largest K] or [N, largest K, D], padded with zeros."""
    padded = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _counts(rows: Sequence[F32]) -> NDArray[np.int32]:
    """Return the length of each row [N, 1]."""
    return np.array([[len(row)] for row in rows], dtype=np.int32)
