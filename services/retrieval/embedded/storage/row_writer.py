"""Writes to the store within one transaction."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from services.core.arrays import I64
from services.retrieval.domain.documents import Batch, to_json
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.storage.codec import encode


@dataclass(frozen=True)
class RowChanges:
    """The new version of the collection, and the rows that were added, in the order given, and removed."""

    version: int
    added: I64
    removed: I64


class RowWriter:
    """Writes within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def probe(self) -> None:
        """Rewrite the format version, which is the smallest write that reaches the disk."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        self._connection.execute(f"PRAGMA user_version = {version}")

    def create(self, name: str, schema: Schema, created_us: int) -> int:
        """Insert a collection and return its key."""
        values = (name, schema.model_dump_json(), created_us)
        statement = "INSERT INTO collections (name, schema, created_us, version) VALUES (?, ?, ?, 0)"
        key = self._connection.execute(statement, values).lastrowid
        assert key is not None
        return key

    def drop(self, key: int) -> int:
        """Delete a collection with its aliases and documents, and return the document count."""
        mine = "SELECT row FROM documents WHERE collection = ?"
        self._connection.execute(f"DELETE FROM vectors WHERE row IN ({mine})", (key,))  # noqa: S608
        count = self._connection.execute("DELETE FROM documents WHERE collection = ?", (key,)).rowcount
        self._connection.execute("DELETE FROM aliases WHERE collection = ?", (key,))
        self._connection.execute("DELETE FROM collections WHERE collection = ?", (key,))
        return count

    def set_alias(self, alias: str, key: int) -> None:
        """Point an alias at a collection."""
        self._connection.execute("INSERT OR REPLACE INTO aliases (alias, collection) VALUES (?, ?)", (alias, key))

    def delete_alias(self, alias: str) -> None:
        """Delete an alias if it exists."""
        self._connection.execute("DELETE FROM aliases WHERE alias = ?", (alias,))

    def upsert(self, key: int, batch: Batch) -> RowChanges:
        """Insert documents, and replace documents with the same ids."""
        removed = self.rows(key, [document.document_id for document in batch.documents])
        self._delete(removed)
        added = [
            self._connection.execute(
                "INSERT INTO documents (collection, document_id, content_hash, metadata, title, text)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (key, one.document_id, one.content_hash, to_json(one.metadata), one.title, one.text),
            ).lastrowid
            for one in batch.documents
        ]
        vectors = zip(added, *encode(batch), strict=True)
        statement = "INSERT INTO vectors (row, dense, sparse, multi_vector) VALUES (?, ?, ?, ?)"
        self._connection.executemany(statement, vectors)
        return RowChanges(self._next_version(key), np.array(added, dtype=np.int64), removed)

    def delete(self, key: int, rows: I64) -> RowChanges:
        """Delete the documents of these rows, which must belong to the collection."""
        self._delete(rows)
        return RowChanges(self._next_version(key), np.empty(0, dtype=np.int64), rows)

    def rows(self, key: int, ids: Iterable[str]) -> I64:
        """Return the rows of the documents with these ids, in ascending order. Unknown ids are skipped."""
        found = self._connection.execute(
            "SELECT row FROM documents WHERE collection = ? AND document_id IN (SELECT value FROM json_each(?))"
            " ORDER BY row",
            (key, json.dumps(list(ids))),
        )
        return np.array([row for (row,) in found], dtype=np.int64)

    def _delete(self, rows: I64) -> None:
        listed = (json.dumps(rows.tolist()),)
        for table in ("vectors", "documents"):
            statement = f"DELETE FROM {table} WHERE row IN (SELECT value FROM json_each(?))"  # noqa: S608
            self._connection.execute(statement, listed)

    def _next_version(self, key: int) -> int:
        statement = "UPDATE collections SET version = version + 1 WHERE collection = ? RETURNING version"
        (version,) = self._connection.execute(statement, (key,)).fetchone()
        return int(version)
