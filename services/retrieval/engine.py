"""The embedded engine: collections whose truth is the store and whose searchable state is in memory.

Rule: one write at a time, under the lock. A write is committed first and then published as a new view, by one
assignment; a reader takes the view and a read transaction of the same version, so that scores, filters and texts are
of one moment.
"""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import AlreadyExists, BackendFailed, NotFound, QuotaExceeded

from services.retrieval.builder import Builder, build, is_due, with_segment
from services.retrieval.documents import Batch, Document
from services.retrieval.filters import Filter
from services.retrieval.index import Block, View, block_of
from services.retrieval.loading import load_view, remove_leftovers, remove_others
from services.retrieval.reader import Reader, Stored
from services.retrieval.schema import Schema
from services.retrieval.search import Candidates, Query, masks_of, rows_of, search
from services.retrieval.store import Store
from services.rpc.server import StartFailed

# Between a commit and its publication lie microseconds: this many tries without a match are a defect.
_MATCH_TRIES: Final = 100_000


@dataclass(frozen=True)
class Collection:
    """A collection and its present state."""

    stored: Stored
    view: View

    @property
    def schema(self) -> Schema:
        """What it holds."""
        return self.stored.schema


@dataclass(frozen=True)
class Upserted:
    """What an upsert did."""

    inserted_count: int
    replaced_count: int
    version: int


@dataclass(frozen=True)
class Deleted:
    """What a delete did."""

    deleted_count: int
    version: int


@dataclass(frozen=True)
class Found:
    """Candidates of each query, every document among them by id, and the version they are of."""

    candidates: Sequence[Candidates]
    documents: Sequence[Document]
    version: int


class Engine:
    """All collections of one data folder. Loads them when made; raises StartFailed when the folder cannot be used."""

    def __init__(
        self, folder: Path, *, now_us: Callable[[], int], max_collections: int, segment_documents: int
    ) -> None:
        self._store = Store(folder)
        self._segments = folder / "segments"
        self._now_us = now_us
        self._max_collections = max_collections
        self._segment_documents = segment_documents
        self._lock = threading.Lock()
        self._building = threading.Lock()
        # Replaced as a whole at every write, so that readers need no lock.
        self._collections = self._loaded()
        self._builder = Builder(self.build_segments)
        self._builder.wake()

    def close(self) -> None:
        """Close the store. Nothing may use the engine any more."""
        self._builder.close()
        self._store.close()

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        collections = self._collections
        return [collections[name] for name in sorted(collections)]

    def collection(self, name: str) -> Collection:
        """The collection of that name. Raises NotFound when there is none."""
        found = self._collections.get(name)
        if found is None:
            reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
            raise NotFound(f"no collection {name!r}", reason=reason, metadata={"collection": name})
        return found

    def create(self, name: str, schema: Schema) -> Collection:
        """The new collection, or the one that is there with an equal schema.

        Raises AlreadyExists when it has another schema, QuotaExceeded when there are too many.
        """
        with self._lock:
            existing = self._collections.get(name)
            if existing is None:
                return self._create(name, schema)
        if existing.schema != schema:
            raise AlreadyExists(f"collection {name!r} exists with another schema", metadata={"collection": name})
        return existing

    def _create(self, name: str, schema: Schema) -> Collection:
        if len(self._collections) >= self._max_collections:
            raise QuotaExceeded(
                f"expected at most {self._max_collections} collections, this would be one more",
                metadata={"expected_max": self._max_collections},
            )
        created_us = self._now_us()
        with self._store.writing() as writer:
            key = writer.create(name, schema, created_us)
        created = Collection(Stored(key, name, schema, created_us, 0), View(0))
        self._publish(created)
        return created

    def drop(self, name: str) -> int:
        """Delete a collection; how many documents it had. Raises NotFound."""
        with self._lock:
            collection = self.collection(name)
            with self._store.writing() as writer:
                count = writer.drop(collection.stored.key)
            self._collections = {key: value for key, value in self._collections.items() if key != name}
        shutil.rmtree(self._folder(collection.stored), ignore_errors=True)
        return count

    def upsert(self, name: str, schema: Schema, batch: Batch) -> Upserted:
        """Write documents that were checked against `schema`. Raises NotFound as `_unchanged` does."""
        # Most of the work of a write is done here, where it keeps nobody waiting.
        block = block_of(schema, np.empty(0, dtype=np.int64), batch)
        with self._lock:
            collection = self._unchanged(name, schema)
            with self._store.writing() as writer:
                written = writer.upsert(collection.stored.key, batch)
                view = collection.view.after(written.version, written.removed, replace(block, rows=written.added))
            self._publish(replace(collection, view=view))
        self._builder.wake()
        replaced = len(written.removed)
        return Upserted(len(block.ids) - replaced, replaced, written.version)

    def delete(self, name: str, schema: Schema, chosen: Sequence[str] | Filter) -> Deleted:
        """Delete by ids or by a filter that was checked against `schema`. Raises NotFound as `_unchanged` does."""
        with self._lock:
            collection = self._unchanged(name, schema)
            with self._store.writing() as writer:
                if isinstance(chosen, Sequence):
                    rows = writer.rows(collection.stored.key, chosen)
                else:
                    rows = rows_of(collection.view, masks_of(collection.view, chosen))
                if not len(rows):
                    return Deleted(0, collection.view.version)
                written = writer.delete(collection.stored.key, rows)
                view = collection.view.after(written.version, written.removed)
            self._publish(replace(collection, view=view))
        self._builder.wake()
        return Deleted(len(rows), written.version)

    def build_segments(self, is_stopped: Callable[[], bool]) -> None:
        """Build the segments that are due. Raises Stopped, and OSError when the disk does not take one."""
        if not self._store.is_writable:
            return
        with self._building:
            for collection in self.collections():
                if is_due(collection.view, self._segment_documents):
                    folder = self._folder(collection.stored)
                    segment, last_row = build(collection.view, collection.schema, folder, is_stopped)
                    self._adopt(collection.stored, segment, last_row)

    def documents(self, name: str, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids, in their order; unknown ones left out. Raises NotFound."""
        with self._store.reading() as reader:
            found = reader.documents_by_id(self.collection(name).stored.key, ids)
        by_id = {document.document_id: document for document in found}
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def count(self, collection: Collection, condition: Filter | None) -> int:
        """Documents that match; all when there is no filter."""
        if condition is None:
            return collection.view.document_count
        return sum(int(np.count_nonzero(mask)) for mask in masks_of(collection.view, condition))

    def retrieve(
        self, name: str, schema: Schema, queries: Sequence[Query], condition: Filter | None, *, with_documents: bool
    ) -> Found:
        """Candidates of each query, and their documents when asked for, all of one moment. Raises NotFound."""
        with self._moment(name, schema) as (view, reader):
            masks = masks_of(view, condition)
            candidates = [search(view, query, masks) for query in queries]
            rows = {int(row) for found in candidates for row in found.rows}
            if with_documents:
                return Found(candidates, reader.documents(rows), view.version)
        ids = sorted({id_ for found in candidates for id_ in found.ids})
        return Found(candidates, [Document(id_) for id_ in ids], view.version)

    @contextmanager
    def _moment(self, name: str, schema: Schema) -> Iterator[tuple[View, Reader]]:
        """The view of a collection and a read transaction of the same version."""
        for _ in range(_MATCH_TRIES):
            with self._store.reading() as reader:
                collection = self._unchanged(name, schema)
                if reader.version(collection.stored.key) == collection.view.version:
                    yield collection.view, reader
                    return
        raise BackendFailed("the index does not follow the store; restart the server")

    def _unchanged(self, name: str, schema: Schema) -> Collection:
        """The collection, if it still has the schema that the request was checked against. Raises NotFound if not."""
        collection = self.collection(name)
        if collection.schema != schema:
            reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
            raise NotFound(f"collection {name!r} was dropped and made anew meanwhile", reason=reason)
        return collection

    def _publish(self, collection: Collection) -> None:
        self._collections = {**self._collections, collection.stored.name: collection}

    def _folder(self, stored: Stored) -> Path:
        return self._segments / str(stored.key)

    def _loaded(self) -> dict[str, Collection]:
        """All collections by name, from segments and store. Raises StartFailed when the store is damaged."""
        try:
            with self._store.reading() as reader:
                loaded = [Collection(one, load_view(reader, one, self._folder(one))) for one in reader.collections()]
        except sqlite3.DatabaseError as error:
            self._store.close()
            raise StartFailed(f"the store is damaged: {error}; restore it from a backup") from error
        if self._store.is_writable:
            remove_leftovers(self._segments, {str(collection.stored.key) for collection in loaded})
        return {collection.stored.name: collection for collection in loaded}

    def _adopt(self, stored: Stored, segment: Block, last_row: int) -> None:
        """Search the segment from now on, unless its collection was dropped meanwhile."""
        with self._lock:
            collection = self._collections.get(stored.name)
            if collection is not None and collection.stored.key == stored.key:
                view = with_segment(collection.view, segment, last_row)
                self._publish(replace(collection, view=view))
                remove_others(self._folder(stored), last_row)
                return
        shutil.rmtree(self._folder(stored), ignore_errors=True)
