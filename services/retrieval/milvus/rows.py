"""Documents with their vectors as rows of Milvus, and back."""

from base64 import b32hexencode
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from services.core.arrays import I64
from services.retrieval.domain.analysis import analyzer
from services.retrieval.domain.documents import Batch, Document, from_plain, to_plain
from services.retrieval.domain.schema import Schema, TextField
from services.retrieval.embedded.index.postings import Terms
from services.retrieval.milvus import fields
from services.rpc.validation import Violations, validating

# Terms of 13 characters with a space between them.
_WORDS_MAX: Final = (fields.STRING_BYTES + 1) // 14


def rows(batch: Batch, schema: Schema) -> list[dict[str, Any]]:
    """One row a document. Raises InvalidRequest for what Milvus cannot hold."""
    made = [_document_row(document) for document in batch.documents]
    with validating() as violations:
        _check_texts(batch.documents, violations)
        for text in schema.text:
            _add_words(made, batch.documents, text, violations)
        for sparse, terms in zip(schema.sparse, batch.sparse, strict=True):
            _check_terms(sparse.name, terms, violations)
            _add(made, sparse.name, _sparse_vectors(terms))
    for dense, matrix in zip(schema.dense, batch.dense, strict=True):
        _add(made, dense.name, list(matrix))
    return made


def document(row: Mapping[str, Any]) -> Document:
    """The document of a row, or what of it the row has."""
    metadata = {name: from_plain(plain) for name, plain in (row.get(fields.METADATA) or {}).items()}
    return Document(
        row[fields.ID], row.get(fields.TITLE, ""), row.get(fields.TEXT, ""), metadata, row.get(fields.HASH, "")
    )


def words(keys: I64) -> str:
    """Terms as words that no analyzer of Milvus changes: 13 letters and digits each, from a term's 64 bits."""
    return " ".join(b32hexencode(key.tobytes())[:13].decode().lower() for key in keys.astype(">i8"))


def sparse_vector(keys: I64, weights: Any) -> dict[int, float]:
    """Weighted terms as pymilvus takes them."""
    return dict(zip(keys.tolist(), weights.tolist(), strict=True))


def _document_row(document: Document) -> dict[str, Any]:
    return {
        fields.ID: document.document_id,
        fields.TITLE: document.title,
        fields.TEXT: document.text,
        fields.METADATA: {name: to_plain(value) for name, value in document.metadata.items()},
        fields.HASH: document.content_hash,
    }


def _add(made: Sequence[dict[str, Any]], name: str, values: Sequence[Any]) -> None:
    for row, value in zip(made, values, strict=True):
        row[name] = value


def _check_texts(documents: Sequence[Document], violations: Violations) -> None:
    for i, document in enumerate(documents):
        size = len(document.text.encode())
        violations.count(f"documents[{i}].text", size, low=0, high=fields.STRING_BYTES, what="bytes in Milvus")


def _add_words(
    made: Sequence[dict[str, Any]], documents: Sequence[Document], field: TextField, violations: Violations
) -> None:
    analysis = analyzer(field.language, keeps_stop_words=field.keeps_stop_words, version=field.analysis)
    for i, (row, document) in enumerate(zip(made, documents, strict=True)):
        keys = analysis.keys(f"{document.title}\n{document.text}")
        violations.count(f"documents[{i}].text", len(keys), low=0, high=_WORDS_MAX, what="words in Milvus")
        row[fields.words_of(field)] = words(keys)


def _check_terms(name: str, terms: Terms, violations: Violations) -> None:
    for i in np.flatnonzero(terms.counts == 0)[:1]:
        violations.add("sparse", f"expected a term of {name!r} in each document in Milvus, got none in document {i}")


def _sparse_vectors(terms: Terms) -> list[dict[int, float]]:
    cuts = np.cumsum(terms.counts)[:-1]
    pairs = zip(np.split(terms.keys, cuts), np.split(terms.values, cuts), strict=True)
    return [sparse_vector(keys, values) for keys, values in pairs]
