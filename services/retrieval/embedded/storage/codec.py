"""The stored form of a document's vectors: one little-endian blob per kind of field.

dense         float32 of each field, one field after the other
sparse        per field: int32 count of terms, int32 keys, float32 weights
multi_vector  per field: int32 count of tokens, then float16 vectors, or float32 scales and int8 vectors
"""

from collections.abc import Sequence

import numpy as np

from services.core.arrays import F32
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.schema import MultiVectorField, Schema, TokenType
from services.retrieval.domain.vectors import Terms, TokenVectors


def encode(batch: Batch) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return the dense, sparse and multi-vector blobs of each document."""
    count = len(batch.documents)
    dense = [row.tobytes() for row in np.concatenate([np.empty((count, 0)), *batch.dense], axis=1).astype("<f4")]
    sparse = [[_encode_terms(terms, part) for part in _slices(terms.counts)] for terms in batch.sparse]
    tokens = [[_encode_tokens(tokens, part) for part in _slices(tokens.counts)] for tokens in batch.multi_vector]
    return dense, _by_document(sparse, count), _by_document(tokens, count)


def decode(documents: Sequence[Document], blobs: Sequence[Sequence[bytes]], schema: Schema) -> Batch:
    """Return the batch whose blobs `encode` wrote."""
    dense, sparse, tokens = blobs
    return Batch(
        documents, _decode_dense(dense, schema), _decode_sparse(sparse, schema), _decode_multi_vector(tokens, schema)
    )


def _decode_dense(stored: Sequence[bytes], schema: Schema) -> list[F32]:
    widths = [field.dimensions for field in schema.dense]
    whole = np.frombuffer(b"".join(stored), dtype="<f4").reshape(len(stored), sum(widths))
    parts = np.split(whole, np.cumsum(widths), axis=1)
    return [np.ascontiguousarray(part) for part in parts[: len(widths)]]


def _decode_sparse(stored: Sequence[bytes], schema: Schema) -> list[Terms]:
    fields: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in schema.sparse]
    for blob in stored:
        offset = 0
        for documents in fields:
            count = int(np.frombuffer(blob, "<i4", 1, offset)[0])
            keys = np.frombuffer(blob, "<i4", count, offset + 4).astype(np.int64)
            documents.append((keys, np.frombuffer(blob, "<f4", count, offset + 4 + 4 * count)))
            offset += 4 + 8 * count
    return [Terms.of(documents) for documents in fields]


def _decode_multi_vector(stored: Sequence[bytes], schema: Schema) -> list[TokenVectors]:
    fields: list[list[TokenVectors]] = [[] for _ in schema.multi_vector]
    for blob in stored:
        offset = 0
        for field, documents in zip(schema.multi_vector, fields, strict=True):
            tokens, offset = _decode_tokens(blob, offset, field)
            documents.append(tokens)
    return [TokenVectors.concatenate(documents) for documents in fields]


def _decode_tokens(blob: bytes, offset: int, field: MultiVectorField) -> tuple[TokenVectors, int]:
    """Return the token vectors of one field of a document, and the offset of the next field."""
    count = int(np.frombuffer(blob, "<i4", 1, offset)[0])
    offset += 4
    numbers, shape = count * field.dimensions, (count, field.dimensions)
    counts = np.array([count], dtype=np.int64)
    if field.stored is TokenType.F16:
        vectors = np.frombuffer(blob, "<f2", numbers, offset).reshape(shape)
        return TokenVectors.of(vectors, counts), offset + 2 * numbers
    scales = np.frombuffer(blob, "<f4", count, offset)
    integers = np.frombuffer(blob, "i1", numbers, offset + 4 * count).reshape(shape)
    return TokenVectors.of(integers, counts, scales), offset + 4 * count + numbers


def _slices(counts: np.ndarray) -> list[slice]:
    """Return the slice of each document in a ragged array."""
    ends = np.cumsum(counts)
    return [slice(end - count, end) for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]


def _encode_terms(terms: Terms, part: slice) -> bytes:
    keys, values = terms.keys[part], terms.values[part]
    return np.int32(len(keys)).tobytes() + keys.astype("<i4").tobytes() + values.astype("<f4").tobytes()


def _encode_tokens(tokens: TokenVectors, part: slice) -> bytes:
    vectors = tokens.vectors[part]
    count = np.int32(len(vectors)).tobytes()
    if tokens.scales is None:
        return count + vectors.astype("<f2").tobytes()
    return count + tokens.scales[part].astype("<f4").tobytes() + vectors.tobytes()


def _by_document(fields: Sequence[Sequence[bytes]], count: int) -> list[bytes]:
    """Join the blobs of all fields for each document."""
    return [b"".join(blobs) for blobs in zip(*fields, strict=True)] if fields else [b""] * count
