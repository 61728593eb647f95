"""Vectors of a document as the store keeps them: one blob for each kind of field, little-endian.

dense         float32 of each field, one field after the other
sparse        for each field: int32 terms, int32 keys, float32 weights
multi_vector  for each field: int32 tokens, float16 vectors; or int32 tokens, float32 scales, int8 vectors
"""

from collections.abc import Sequence

import numpy as np

from services.core.arrays import F32
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.schema import MultiVectorField, Schema, TokenType
from services.retrieval.embedded.index.multi_vectors import Tokens
from services.retrieval.embedded.index.postings import Terms


def packed(batch: Batch) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The three blobs of each document of a batch."""
    count = len(batch.documents)
    dense = [row.tobytes() for row in np.concatenate([np.empty((count, 0)), *batch.dense], axis=1).astype("<f4")]
    sparse = [[_terms(terms, place) for place in _places(terms.counts)] for terms in batch.sparse]
    tokens = [[_tokens(tokens, place) for place in _places(tokens.counts)] for tokens in batch.multi_vector]
    return dense, _by_document(sparse, count), _by_document(tokens, count)


def unpacked(documents: Sequence[Document], blobs: Sequence[Sequence[bytes]], schema: Schema) -> Batch:
    """The batch of documents from what `packed` made of them."""
    dense, sparse, tokens = blobs
    return Batch(documents, _dense(dense, schema), _sparse(sparse, schema), _multi_vector(tokens, schema))


def _dense(stored: Sequence[bytes], schema: Schema) -> list[F32]:
    widths = [field.dimensions for field in schema.dense]
    whole = np.frombuffer(b"".join(stored), dtype="<f4").reshape(len(stored), sum(widths))
    parts = np.split(whole, np.cumsum(widths), axis=1)
    return [np.ascontiguousarray(part) for part in parts[: len(widths)]]


def _sparse(stored: Sequence[bytes], schema: Schema) -> list[Terms]:
    fields: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in schema.sparse]
    for blob in stored:
        offset = 0
        for documents in fields:
            count = int(np.frombuffer(blob, "<i4", 1, offset)[0])
            keys = np.frombuffer(blob, "<i4", count, offset + 4).astype(np.int64)
            documents.append((keys, np.frombuffer(blob, "<f4", count, offset + 4 + 4 * count)))
            offset += 4 + 8 * count
    return [Terms.of(documents) for documents in fields]


def _multi_vector(stored: Sequence[bytes], schema: Schema) -> list[Tokens]:
    fields: list[list[Tokens]] = [[] for _ in schema.multi_vector]
    for blob in stored:
        offset = 0
        for field, documents in zip(schema.multi_vector, fields, strict=True):
            tokens, offset = _unpacked_tokens(blob, offset, field)
            documents.append(tokens)
    return [Tokens.joined(documents) for documents in fields]


def _unpacked_tokens(blob: bytes, offset: int, field: MultiVectorField) -> tuple[Tokens, int]:
    """The tokens of one document from its blob, and where those of its next field begin."""
    count = int(np.frombuffer(blob, "<i4", 1, offset)[0])
    offset += 4
    numbers, shape = count * field.dimensions, (count, field.dimensions)
    counts = np.array([count], dtype=np.int64)
    if field.stored is TokenType.F16:
        vectors = np.frombuffer(blob, "<f2", numbers, offset).reshape(shape)
        return Tokens.of(vectors, counts), offset + 2 * numbers
    scales = np.frombuffer(blob, "<f4", count, offset)
    integers = np.frombuffer(blob, "i1", numbers, offset + 4 * count).reshape(shape)
    return Tokens.of(integers, counts, scales), offset + 4 * count + numbers


def _places(counts: np.ndarray) -> list[slice]:
    """Where each document's part of a ragged array lies."""
    ends = np.cumsum(counts)
    return [slice(end - count, end) for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]


def _terms(terms: Terms, place: slice) -> bytes:
    keys, values = terms.keys[place], terms.values[place]
    return np.int32(len(keys)).tobytes() + keys.astype("<i4").tobytes() + values.astype("<f4").tobytes()


def _tokens(tokens: Tokens, place: slice) -> bytes:
    vectors = tokens.vectors[place]
    count = np.int32(len(vectors)).tobytes()
    if tokens.scales is None:
        return count + vectors.astype("<f2").tobytes()
    return count + tokens.scales[place].astype("<f4").tobytes() + vectors.tobytes()


def _by_document(fields: Sequence[Sequence[bytes]], count: int) -> list[bytes]:
    """The blobs of each document, those of all fields one after the other."""
    return [b"".join(blobs) for blobs in zip(*fields, strict=True)] if fields else [b""] * count
