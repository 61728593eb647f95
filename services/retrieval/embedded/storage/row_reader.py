"""Reads from the store within one transaction."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import I64
from services.retrieval.domain.collections import CollectionRecord
from services.retrieval.domain.documents import Batch, Document, from_json
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.storage.codec import decode

# Documents read at a time when a collection is loaded.
_LOAD_ROWS: Final = 4096
# Documents in the sample for the mean size.
_SAMPLE_ROWS: Final = 64


@dataclass(frozen=True)
class StoredBatch:
    """Documents of a collection and their rows. Title and text are only filled if a text field needs them."""

    rows: I64
    batch: Batch


class RowReader:
    """Reads one state of the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def collections(self) -> list[CollectionRecord]:
        """Return all collections by name."""
        found = self._connection.execute(
            "SELECT collection, name, schema, created_us, version FROM collections ORDER BY name"
        )
        return [
            CollectionRecord(key, name, Schema.model_validate_json(schema), created_us, version)
            for key, name, schema, created_us, version in found
        ]

    def aliases(self) -> dict[str, str]:
        """Return the collection name of each alias."""
        return dict(self._connection.execute("SELECT alias, name FROM aliases JOIN collections USING (collection)"))

    def version(self, key: int) -> int | None:
        """Return the version of a collection, or None if it does not exist."""
        found = self._connection.execute("SELECT version FROM collections WHERE collection = ?", (key,)).fetchone()
        return found[0] if found else None

    def document_bytes(self, key: int) -> float:
        """Return the mean size of the newest documents with their vectors, in bytes; 0 for an empty collection."""
        texts = " + ".join(f"LENGTH(CAST({one} AS BLOB))" for one in ("document_id", "metadata", "title", "text"))
        vectors = " + ".join(f"LENGTH({one})" for one in ("dense", "sparse", "multi_vector"))
        (mean,) = self._connection.execute(
            f"SELECT AVG(size) FROM (SELECT {texts} + {vectors} AS size"  # noqa: S608
            " FROM documents JOIN vectors USING (row) WHERE collection = ? ORDER BY row DESC LIMIT ?)",
            (key, _SAMPLE_ROWS),
        ).fetchone()
        return mean or 0.0

    def documents(self, rows: Iterable[int]) -> list[Document]:
        """Return the documents of these rows in order of id."""
        return self._documents("row IN (SELECT value FROM json_each(?))", json.dumps(list(rows)))

    def documents_by_id(self, key: int, ids: Iterable[str]) -> list[Document]:
        """Return the documents of a collection with these ids, in order of id. Unknown ids are skipped."""
        condition = "collection = ? AND document_id IN (SELECT value FROM json_each(?))"
        return self._documents(condition, key, json.dumps(list(ids)))

    def rows_by_id(self, key: int, ids: Iterable[str]) -> dict[str, int]:
        """Return the rows of the documents of a collection with these ids, by id."""
        found = self._connection.execute(
            "SELECT document_id, row FROM documents"
            " WHERE collection = ? AND document_id IN (SELECT value FROM json_each(?))",
            (key, json.dumps(list(ids))),
        )
        return dict(found.fetchall())

    def rows(self, key: int, up_to: int) -> I64:
        """Return the rows of a collection's documents up to and including `up_to`, in ascending order."""
        found = self._connection.execute(
            "SELECT row FROM documents INDEXED BY documents_by_row WHERE collection = ? AND row <= ? ORDER BY row",
            (key, up_to),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def rows_after(self, key: int, after: str, limit: int) -> list[tuple[int, str]]:
        """Return rows and ids of up to `limit` documents with ids above `after`, in order of id."""
        found = self._connection.execute(
            "SELECT row, document_id FROM documents WHERE collection = ? AND document_id > ?"
            " ORDER BY document_id LIMIT ?",
            (key, after, limit),
        )
        return found.fetchall()

    def texts(self, key: int, up_to: int) -> Iterator[tuple[I64, list[Document]]]:
        """Yield batches of rows up to `up_to`, and their documents with title and text only."""
        found = self._connection.execute(
            "SELECT row, title, text FROM documents INDEXED BY documents_by_row"
            " WHERE collection = ? AND row <= ? ORDER BY row",
            (key, up_to),
        )
        while chunk := found.fetchmany(_LOAD_ROWS):
            rows = np.array([row for row, _, _ in chunk], dtype=np.int64)
            yield rows, [Document("", title, text) for _, title, text in chunk]

    def load(self, key: int, schema: Schema, after: int) -> Iterator[StoredBatch]:
        """Yield batches of the documents with rows above `after`, in order of row."""
        texts = "title, text" if schema.text else "'', ''"
        found = self._connection.execute(
            f"SELECT row, document_id, {texts}, metadata, dense, sparse, multi_vector"  # noqa: S608
            " FROM documents JOIN vectors USING (row) WHERE collection = ? AND row > ? ORDER BY row",
            (key, after),
        )
        while chunk := found.fetchmany(_LOAD_ROWS):
            rows, ids, titles, bodies, metadata, *vectors = zip(*chunk, strict=True)
            documents = list(map(Document, ids, titles, bodies, map(from_json, metadata)))
            yield StoredBatch(np.array(rows, dtype=np.int64), decode(documents, vectors, schema))

    def _documents(self, condition: str, *values: object) -> list[Document]:
        found = self._connection.execute(
            f"SELECT document_id, title, text, metadata, content_hash FROM documents WHERE {condition}"  # noqa: S608
            " ORDER BY document_id",
            values,
        )
        return [Document(id_, title, text, from_json(plain), hash_) for id_, title, text, plain, hash_ in found]
