"""Conversion between documents with their vectors and rows of Milvus."""

from base64 import b32hexencode
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from services.core.arrays import I64
from services.retrieval.domain.analysis import analyzer
from services.retrieval.domain.documents import Batch, Document, from_plain, to_plain
from services.retrieval.domain.schema import Schema, TextField
from services.retrieval.domain.vectors import Terms
from services.retrieval.milvus import fields
from services.rpc.validation import Violations, validating

# Terms have 13 characters and are separated by spaces.
_WORDS_MAX: Final = (fields.STRING_BYTES + 1) // 14


def rows_of(batch: Batch, schema: Schema) -> list[dict[str, Any]]:
    """Return one row per document. Raises InvalidRequest for values that Milvus cannot store."""
    rows = [_document_row(document) for document in batch.documents]
    with validating() as violations:
        _check_texts(batch.documents, violations)
        for text in schema.text:
            _add_words(rows, batch.documents, text, violations)
        for sparse, terms in zip(schema.sparse, batch.sparse, strict=True):
            _check_terms(sparse.name, terms, violations)
            _add(rows, sparse.name, _sparse_vectors(terms))
    for dense, matrix in zip(schema.dense, batch.dense, strict=True):
        _add(rows, dense.name, list(matrix))
    return rows


def document_of(row: Mapping[str, Any]) -> Document:
    """Return the document of a row. Fields that the row lacks are empty."""
    metadata = {name: from_plain(plain) for name, plain in (row.get(fields.METADATA) or {}).items()}
    return Document(
        row[fields.ID], row.get(fields.TITLE, ""), row.get(fields.TEXT, ""), metadata, row.get(fields.HASH, "")
    )


def words(keys: I64) -> str:
    """Encode terms as words of 13 letters and digits, 64 bits each, which no analyzer of Milvus changes."""
    return " ".join(b32hexencode(key.tobytes())[:13].decode().lower() for key in keys.astype(">i8"))


def sparse_vector(keys: I64, weights: Any) -> dict[int, float]:
    """Return weighted terms as a sparse vector of pymilvus."""
    return dict(zip(keys.tolist(), weights.tolist(), strict=True))


def _document_row(document: Document) -> dict[str, Any]:
    return {
        fields.ID: document.document_id,
        fields.TITLE: document.title,
        fields.TEXT: document.text,
        fields.METADATA: {name: to_plain(value) for name, value in document.metadata.items()},
        fields.HASH: document.content_hash,
    }


def _add(rows: Sequence[dict[str, Any]], name: str, values: Sequence[Any]) -> None:
    for row, value in zip(rows, values, strict=True):
        row[name] = value


def _check_texts(documents: Sequence[Document], violations: Violations) -> None:
    for i, document in enumerate(documents):
        size = len(document.text.encode())
        violations.count(f"documents[{i}].text", size, low=0, high=fields.STRING_BYTES, what="bytes in Milvus")


def _add_words(
    rows: Sequence[dict[str, Any]], documents: Sequence[Document], field: TextField, violations: Violations
) -> None:
    analysis = analyzer(field.language, keeps_stop_words=field.keeps_stop_words, version=field.analysis)
    for i, (row, document) in enumerate(zip(rows, documents, strict=True)):
        keys = analysis.keys(f"{document.title}\n{document.text}")
        violations.count(f"documents[{i}].text", len(keys), low=0, high=_WORDS_MAX, what="words in Milvus")
        row[fields.words_of(field)] = words(keys)


def _check_terms(name: str, terms: Terms, violations: Violations) -> None:
    for i in np.flatnonzero(terms.counts == 0)[:1]:
        violations.add("sparse", f"expected a term of {name!r} in each document with Milvus, got none in document {i}")


def _sparse_vectors(terms: Terms) -> list[dict[int, float]]:
    cuts = np.cumsum(terms.counts)[:-1]
    pairs = zip(np.split(terms.keys, cuts), np.split(terms.values, cuts), strict=True)
    return [sparse_vector(keys, values) for keys, values in pairs]
