"""The embedded engine: durable collections in the store, and their searchable state in memory.

Rule: one write at a time, under the lock. A write is committed first, and then its view is published by one assignment.
A reader takes the view and a read transaction of the same version, so that scores, filters and texts agree.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from sluice.errors import AlreadyExists, BackendFailed, QuotaExceeded

from services.retrieval.cancellation import IsStopped, Stopped
from services.retrieval.domain.collections import CollectionRecord, CollectionStatistics
from services.retrieval.domain.documents import Batch
from services.retrieval.domain.engine_protocol import DeleteResult, UpsertResult
from services.retrieval.domain.errors import storage_unwritable
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded import segment_builder
from services.retrieval.embedded.catalog import EmbeddedCatalog, EmbeddedCollection
from services.retrieval.embedded.index.filter_masks import evaluate_blocks, live_masks, rows_of
from services.retrieval.embedded.index.view import Block, View, block_of
from services.retrieval.embedded.loader import load_view, remove_leftovers, remove_other_segments
from services.retrieval.embedded.reader import EmbeddedReader
from services.retrieval.embedded.statistics import folder_bytes, memory_bytes, statistics_of
from services.retrieval.embedded.storage.segment_files import copy_segments
from services.retrieval.embedded.storage.store import DamagedStore, Store
from services.retrieval.files import DATABASE, SEGMENTS
from services.retrieval.lanes import check
from services.rpc.server.lifecycle import StartFailed

logger = logging.getLogger(__name__)

# Interval of the checks for cancellation while waiting for another build.
_POLL_S: Final = 0.2
# A copy leaves this much free space on the disk.
_FREE_BYTES_LEFT: Final = 64 * 2**20
# A commit is published within microseconds, so this many attempts without a match mean a defect.
_MATCH_ATTEMPTS: Final = 100_000


class EmbeddedEngine:
    """All collections of one data folder. The constructor loads them and raises StartFailed if it cannot."""

    def __init__(
        self, folder: Path, *, now_us: Callable[[], int], max_collections: int, segment_documents: int
    ) -> None:
        self._store = Store(folder)
        self._segments = folder / SEGMENTS
        self._now_us = now_us
        self._max_collections = max_collections
        self._segment_documents = segment_documents
        self._lock = threading.Lock()
        self._building = threading.Lock()
        # Every write replaces the whole value, so readers need no lock.
        self._catalog = self._load()
        self._builder = segment_builder.SegmentBuilder(self.build_segments)
        self._builder.wake()

    def close(self) -> None:
        """Stop the builder and close the store. The engine must not be used afterwards."""
        self._builder.close()
        self._store.close()

    @property
    def catalog(self) -> EmbeddedCatalog:
        """The current collections and aliases."""
        return self._catalog

    @property
    def is_writable(self) -> bool:
        """Whether the data folder was writable when it was opened."""
        return self._store.is_writable

    @property
    def write_failure(self) -> str:
        """Why the disk rejected the last write; empty if it did not."""
        return self._store.write_failure

    def probe(self) -> None:
        """Write to the disk without changing data. Raises PreconditionFailed if the disk rejects it."""
        with self._lock, self._store.writing() as writer:
            writer.probe()

    @contextmanager
    def reader(self, name: str) -> Iterator[EmbeddedReader]:
        """Open the collection with this name or alias for reading at one version. Raises NotFound."""
        for _ in range(_MATCH_ATTEMPTS):
            with self._store.reading() as rows:
                collection = self._catalog.find(name)
                if rows.version(collection.key) == collection.view.version:
                    yield EmbeddedReader(collection, rows)
                    return
        raise BackendFailed("the index does not match the store; restart the server")

    def create(self, name: str, schema: Schema) -> EmbeddedCollection:
        """Create a collection, or return the existing one if its schema is equal.

        Raises AlreadyExists if an alias or a collection with another schema has the name, QuotaExceeded if there are
        too many collections.
        """
        with self._lock:
            if name in self._catalog.aliases:
                raise AlreadyExists(f"{name!r} is an alias; choose another name", metadata={"collection": name})
            existing = self._catalog.collections.get(name)
            if existing is None:
                return self._create(name, schema)
        if existing.schema != schema:
            raise AlreadyExists(f"collection {name!r} exists with another schema", metadata={"collection": name})
        return existing

    def drop(self, name: str) -> int:
        """Delete a collection, not an alias, with its aliases, and return its document count. Raises NotFound."""
        with self._lock:
            collection = self._catalog.get(name)
            with self._store.writing() as writer:
                count = writer.drop(collection.key)
            self._catalog = self._catalog.without_collection(name)
        shutil.rmtree(self._folder(collection.record), ignore_errors=True)
        return count

    def set_alias(self, alias: str, name: str) -> None:
        """Point an alias at a collection.

        Raises NotFound if there is no such collection, AlreadyExists if a collection has the name of the alias.
        """
        with self._lock:
            collection = self._catalog.get(name)
            if alias in self._catalog.collections:
                raise AlreadyExists(f"{alias!r} is a collection; choose another alias", metadata={"collection": alias})
            with self._store.writing() as writer:
                writer.set_alias(alias, collection.key)
            self._catalog = self._catalog.with_alias(alias, name)

    def delete_alias(self, alias: str) -> None:
        """Delete an alias if it exists."""
        with self._lock:
            with self._store.writing() as writer:
                writer.delete_alias(alias)
            self._catalog = self._catalog.without_alias(alias)

    def upsert(self, collection: EmbeddedCollection, batch: Batch) -> UpsertResult:
        """Write documents that match the collection's schema. Raises NotFound if the collection was dropped."""
        # Most of the work is done before the lock is taken, so that it delays no other write.
        block = block_of(collection.schema, np.empty(0, dtype=np.int64), batch)
        with self._lock:
            present = self._catalog.current(collection)
            with self._store.writing() as writer:
                written = writer.upsert(present.key, batch)
                view = present.view.apply(written.version, written.removed, replace(block, rows=written.added))
            self._publish(present, view)
        self._builder.wake()
        replaced = len(written.removed)
        return UpsertResult(len(block.ids) - replaced, replaced, written.version)

    def delete(self, collection: EmbeddedCollection, chosen: Sequence[str] | Filter) -> DeleteResult:
        """Delete documents by id, or by a filter that matches the schema.

        Raises NotFound if the collection was dropped. Raises DeadlineExpired or Cancelled, with nothing deleted, if the
        caller no longer waits.
        """
        # The filter is evaluated before the lock is taken, so that it delays no write. Only new blocks are left then.
        known = {} if isinstance(chosen, Sequence) else evaluate_blocks(collection.view, chosen, check)
        with self._lock:
            present = self._catalog.current(collection)
            with self._store.writing() as writer:
                if isinstance(chosen, Sequence):
                    rows = writer.rows(present.key, chosen)
                else:
                    masks = evaluate_blocks(present.view, chosen, check, known)
                    rows = rows_of(present.view, live_masks(present.view, masks))
                if not len(rows):
                    return DeleteResult(0, present.view.version)
                written = writer.delete(present.key, rows)
                view = present.view.apply(written.version, written.removed)
            self._publish(present, view)
        self._builder.wake()
        return DeleteResult(len(rows), written.version)

    def build_segments(self, is_stopped: IsStopped) -> None:
        """Build the segments that are due. Raises Stopped, and OSError if the disk rejects one."""
        if not self._store.is_writable:
            return
        with self._building:
            for collection in self._catalog.collections.values():
                if segment_builder.is_due(collection.view, self._segment_documents):
                    folder = self._folder(collection.record)
                    segment, last_row = segment_builder.build(collection.view, collection.schema, folder, is_stopped)
                    self._adopt(collection, segment, last_row)
                    fields = {"collection": collection.record.name, "documents": len(segment.ids)}
                    logger.info("segment built", extra=fields)

    def optimize(
        self, collection: EmbeddedCollection, is_stopped: IsStopped
    ) -> tuple[CollectionStatistics, CollectionStatistics]:
        """Compact a collection, and return its statistics before and after.

        Raises NotFound if it was dropped, PreconditionFailed if the disk rejects the files, and Stopped.
        """
        if not self._store.is_writable:
            raise storage_unwritable("the data folder is read-only")
        with self._build_lock(is_stopped):
            present = self._catalog.current(collection)
            before = self.statistics(present)
            if not present.view.parts:
                remove_other_segments(self._folder(present.record), None)
            elif not segment_builder.is_compact(present.view, self._segment_documents):
                try:
                    self._compact(present, is_stopped)
                # FAISS reports a full disk as a RuntimeError.
                except (OSError, RuntimeError) as error:
                    raise storage_unwritable(error) from error
        return before, self.statistics(self._catalog.current(collection))

    def statistics(self, collection: EmbeddedCollection) -> CollectionStatistics:
        """Return the sizes of a collection."""
        with self._store.reading() as rows:
            mean = rows.document_bytes(collection.key)
        view = collection.view
        return statistics_of(view, self._folder(collection.record), int(mean * view.document_count))

    def memory_bytes(self, collection: EmbeddedCollection) -> int:
        """Estimate the bytes of memory of a collection."""
        return memory_bytes(collection.view, self._folder(collection.record))

    def segment_bytes(self, collection: EmbeddedCollection) -> int:
        """Return the bytes of the files of a collection's segments."""
        return folder_bytes(self._folder(collection.record))

    def copy_to(self, folder: Path, is_stopped: IsStopped) -> None:
        """Write a consistent copy of all data as a data folder while reads and writes continue.

        Raises PreconditionFailed if the disk has too little space, OSError, and Stopped.
        """
        needed, available = self._store.size_bytes, shutil.disk_usage(folder).free - _FREE_BYTES_LEFT
        if self._segments.exists() and self._segments.stat().st_dev != folder.stat().st_dev:
            needed += folder_bytes(self._segments)
        if available < needed:
            raise storage_unwritable(f"expected {needed:,} bytes of free space in {folder}, got {max(available, 0):,}")
        # Segments first: later writes get higher rows, so the segments fit any later state of the store.
        copy_segments(self._segments, folder / SEGMENTS)
        self._store.copy_to(folder / DATABASE, is_stopped)

    @contextmanager
    def _build_lock(self, is_stopped: IsStopped) -> Iterator[None]:
        """Hold the lock of segment builds for the block. Raises Stopped."""
        while not self._building.acquire(timeout=_POLL_S):
            if is_stopped():
                raise Stopped
        try:
            yield
        finally:
            self._building.release()

    def _compact(self, collection: EmbeddedCollection, is_stopped: IsStopped) -> None:
        folder = self._folder(collection.record)
        minimum = self._segment_documents
        block, last_row = segment_builder.compact(collection.view, collection.schema, folder, minimum, is_stopped)
        self._adopt(collection, block, last_row)

    def _create(self, name: str, schema: Schema) -> EmbeddedCollection:
        if len(self._catalog.collections) >= self._max_collections:
            raise QuotaExceeded(
                f"expected at most {self._max_collections} collections, got one more; drop one or raise the limit",
                metadata={"expected_max": self._max_collections},
            )
        created_us = self._now_us()
        with self._store.writing() as writer:
            key = writer.create(name, schema, created_us)
        created = EmbeddedCollection(CollectionRecord(key, name, schema, created_us, 0), View(0))
        self._catalog = self._catalog.with_collection(created)
        return created

    def _publish(self, collection: EmbeddedCollection, view: View) -> None:
        self._catalog = self._catalog.with_collection(replace(collection, view=view))

    def _folder(self, record: CollectionRecord) -> Path:
        return self._segments / str(record.key)

    def _load(self) -> EmbeddedCatalog:
        """Load all collections and aliases. Raises StartFailed if the store is damaged."""
        try:
            with self._store.reading() as rows:
                loaded = [
                    EmbeddedCollection(one, load_view(rows, one, self._folder(one))) for one in rows.collections()
                ]
                aliases = rows.aliases()
        except DamagedStore as error:
            self._store.close()
            raise StartFailed(f"the store is damaged: {error}; restore a snapshot or a backup") from error
        if self._store.is_writable:
            remove_leftovers(self._segments, {str(collection.key) for collection in loaded})
        for one in loaded:
            counts = {"documents": one.view.document_count, "indexed": one.view.indexed_count}
            logger.info("collection loaded", extra={"collection": one.record.name, **counts})
        return EmbeddedCatalog({collection.record.name: collection for collection in loaded}, aliases)

    def _adopt(self, built: EmbeddedCollection, segment: Block, last_row: int) -> None:
        """Publish a view with the segment, or delete the segment if its collection was dropped meanwhile."""
        with self._lock:
            present = self._catalog.collections.get(built.record.name)
            if present is not None and present.key == built.key:
                self._publish(present, segment_builder.with_segment(present.view, segment, last_row))
                remove_other_segments(self._folder(built.record), last_row)
                return
        shutil.rmtree(self._folder(built.record), ignore_errors=True)
