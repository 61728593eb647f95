"""Reading the store: what one transaction sees."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import I64
from services.retrieval.domain.documents import Batch, Document, from_json
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.storage.codec import unpacked

# Documents taken from the database at a time when a collection is loaded.
_LOAD_ROWS: Final = 4096
# Documents whose size stands for that of all.
_SAMPLE_ROWS: Final = 64


@dataclass(frozen=True)
class Stored:
    """A collection as it is stored. `key` is its number, never used again."""

    key: int
    name: str
    schema: Schema
    created_us: int
    version: int


@dataclass(frozen=True)
class Loaded:
    """Some documents of a collection and their rows; title and text are there when a text field needs them."""

    rows: I64
    batch: Batch


class Reader:
    """Reads one state of the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def collections(self) -> list[Stored]:
        """Every collection, by name."""
        found = self._connection.execute(
            "SELECT collection, name, schema, created_us, version FROM collections ORDER BY name"
        )
        return [
            Stored(key, name, Schema.model_validate_json(schema), created_us, version)
            for key, name, schema, created_us, version in found
        ]

    def aliases(self) -> dict[str, str]:
        """The name of the collection that each alias means."""
        return dict(self._connection.execute("SELECT alias, name FROM aliases JOIN collections USING (collection)"))

    def version(self, key: int) -> int | None:
        """Number of the last write to a collection; None when it is gone."""
        found = self._connection.execute("SELECT version FROM collections WHERE collection = ?", (key,)).fetchone()
        return found[0] if found else None

    def document_bytes(self, key: int) -> float:
        """Bytes of a document with its vectors: the mean of the newest of a collection, 0 when it has none."""
        texts = " + ".join(f"LENGTH(CAST({one} AS BLOB))" for one in ("document_id", "metadata", "title", "text"))
        vectors = " + ".join(f"LENGTH({one})" for one in ("dense", "sparse", "multi_vector"))
        (mean,) = self._connection.execute(
            f"SELECT AVG(size) FROM (SELECT {texts} + {vectors} AS size"  # noqa: S608
            " FROM documents JOIN vectors USING (row) WHERE collection = ? ORDER BY row DESC LIMIT ?)",
            (key, _SAMPLE_ROWS),
        ).fetchone()
        return mean or 0.0

    def documents(self, rows: Iterable[int]) -> list[Document]:
        """The documents of these rows, by id."""
        return self._documents("row IN (SELECT value FROM json_each(?))", json.dumps(list(rows)))

    def documents_by_id(self, key: int, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids that are in the collection, by id."""
        condition = "collection = ? AND document_id IN (SELECT value FROM json_each(?))"
        return self._documents(condition, key, json.dumps(list(ids)))

    def rows_by_id(self, key: int, ids: Iterable[str]) -> dict[str, int]:
        """The rows of those documents with these ids that are in the collection."""
        found = self._connection.execute(
            "SELECT document_id, row FROM documents"
            " WHERE collection = ? AND document_id IN (SELECT value FROM json_each(?))",
            (key, json.dumps(list(ids))),
        )
        return dict(found.fetchall())

    def rows(self, key: int, up_to: int) -> I64:
        """The rows, rising, of a collection's documents, up to and with that row."""
        found = self._connection.execute(
            "SELECT row FROM documents INDEXED BY documents_by_row WHERE collection = ? AND row <= ? ORDER BY row",
            (key, up_to),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def rows_after(self, key: int, after: str, limit: int) -> list[tuple[int, str]]:
        """Rows and ids of up to `limit` documents of a collection with ids above `after`, by id."""
        found = self._connection.execute(
            "SELECT row, document_id FROM documents WHERE collection = ? AND document_id > ?"
            " ORDER BY document_id LIMIT ?",
            (key, after, limit),
        )
        return found.fetchall()

    def texts(self, key: int, up_to: int) -> Iterator[tuple[I64, list[Document]]]:
        """Rows, and documents with title and text alone, of a collection up to that row, some thousands at a time."""
        found = self._connection.execute(
            "SELECT row, title, text FROM documents INDEXED BY documents_by_row"
            " WHERE collection = ? AND row <= ? ORDER BY row",
            (key, up_to),
        )
        while chunk := found.fetchmany(_LOAD_ROWS):
            rows = np.array([row for row, _, _ in chunk], dtype=np.int64)
            yield rows, [Document("", title, text) for _, title, text in chunk]

    def load(self, key: int, schema: Schema, after: int) -> Iterator[Loaded]:
        """The documents of a collection with rows above `after`, by row, some thousands at a time."""
        texts = "title, text" if schema.text else "'', ''"
        found = self._connection.execute(
            f"SELECT row, document_id, {texts}, metadata, dense, sparse, multi_vector"  # noqa: S608
            " FROM documents JOIN vectors USING (row) WHERE collection = ? AND row > ? ORDER BY row",
            (key, after),
        )
        while chunk := found.fetchmany(_LOAD_ROWS):
            rows, ids, titles, bodies, metadata, *vectors = zip(*chunk, strict=True)
            documents = list(map(Document, ids, titles, bodies, map(from_json, metadata)))
            yield Loaded(np.array(rows, dtype=np.int64), unpacked(documents, vectors, schema))

    def _documents(self, condition: str, *values: object) -> list[Document]:
        found = self._connection.execute(
            f"SELECT document_id, title, text, metadata, content_hash FROM documents WHERE {condition}"  # noqa: S608
            " ORDER BY document_id",
            values,
        )
        return [Document(id_, title, text, from_json(plain), hash_) for id_, title, text, plain, hash_ in found]
