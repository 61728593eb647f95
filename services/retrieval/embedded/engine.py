"""The embedded engine: collections whose truth is the store and whose searchable state is in memory.

Rule: one write at a time, under the lock. A write is committed first and then published as a new view, by one
assignment; a reader takes the view and a read transaction of the same version, so that scores, filters and texts are
of one moment.
"""

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from sluice.errors import AlreadyExists, BackendFailed, QuotaExceeded

from services.retrieval.domain.documents import Batch
from services.retrieval.domain.engine_protocol import Deleted, Upserted
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.catalog import Catalogue, Collection
from services.retrieval.embedded.index.ann import Stopped
from services.retrieval.embedded.index.view import Block, View, block_of
from services.retrieval.embedded.loader import load_view, remove_leftovers, remove_others
from services.retrieval.embedded.reader import Moment
from services.retrieval.embedded.search.search import matching, rows_of
from services.retrieval.embedded.segment_builder import Builder, build, is_due, is_merged, merge, with_segment
from services.retrieval.embedded.statistics import Statistics, folder_bytes, memory_bytes, statistics
from services.retrieval.embedded.storage.row_reader import Stored
from services.retrieval.embedded.storage.segment_files import copy_segments
from services.retrieval.embedded.storage.store import DATABASE, SEGMENTS, Store, unwritable
from services.retrieval.lanes import check
from services.rpc.server.lifecycle import StartFailed

logger = logging.getLogger(__name__)

# Between two looks at whether to stop waiting for what is being built.
_LOOK_S: Final = 0.2
# A copy leaves this much room on the disk.
_ROOM_LEFT: Final = 64 * 2**20
# Between a commit and its publication lie microseconds: this many tries without a match are a defect.
_MATCH_TRIES: Final = 100_000


class Engine:
    """All collections of one data folder. Loads them when made; raises StartFailed when the folder cannot be used."""

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
        # Replaced as a whole at every write, so that readers need no lock.
        self._catalogue = self._loaded()
        self._builder = Builder(self.build_segments)
        self._builder.wake()

    def close(self) -> None:
        """Close the store. Nothing may use the engine any more."""
        self._builder.close()
        self._store.close()

    @property
    def catalogue(self) -> Catalogue:
        """All collections and aliases, as they are now."""
        return self._catalogue

    @property
    def is_writable(self) -> bool:
        """Whether the data folder took writes when it was opened."""
        return self._store.is_writable

    @property
    def write_failure(self) -> str:
        """Why the last write failed, when that was the disk's fault; empty when it did not."""
        return self._store.write_failure

    def probe(self) -> None:
        """Write to the disk without changing anything. Raises PreconditionFailed when it takes no writes."""
        with self._lock, self._store.writing() as writer:
            writer.probe()

    @contextmanager
    def moment(self, name: str) -> Iterator[Moment]:
        """The collection of that name or alias at one moment. Raises NotFound."""
        for _ in range(_MATCH_TRIES):
            with self._store.reading() as reader:
                collection = self._catalogue.find(name)
                if reader.version(collection.key) == collection.view.version:
                    yield Moment(collection, reader)
                    return
        raise BackendFailed("the index does not follow the store; restart the server")

    def create(self, name: str, schema: Schema) -> Collection:
        """The new collection, or the one that is there with an equal schema.

        Raises AlreadyExists when an alias or another schema has the name, QuotaExceeded when there are too many.
        """
        with self._lock:
            if name in self._catalogue.aliases:
                raise AlreadyExists(f"{name!r} is an alias; choose another name", metadata={"collection": name})
            existing = self._catalogue.collections.get(name)
            if existing is None:
                return self._create(name, schema)
        if existing.schema != schema:
            raise AlreadyExists(f"collection {name!r} exists with another schema", metadata={"collection": name})
        return existing

    def drop(self, name: str) -> int:
        """Delete a collection, named by its own name, and its aliases; how many documents it had. Raises NotFound."""
        with self._lock:
            collection = self._catalogue.own(name)
            with self._store.writing() as writer:
                count = writer.drop(collection.key)
            self._catalogue = self._catalogue.without(name)
        shutil.rmtree(self._folder(collection.stored), ignore_errors=True)
        return count

    def set_alias(self, alias: str, name: str) -> None:
        """Let the alias mean that collection from now on.

        Raises NotFound when there is no such collection, AlreadyExists when the alias is the name of one.
        """
        with self._lock:
            collection = self._catalogue.own(name)
            if alias in self._catalogue.collections:
                raise AlreadyExists(f"{alias!r} is a collection; choose another alias", metadata={"collection": alias})
            with self._store.writing() as writer:
                writer.set_alias(alias, collection.key)
            self._catalogue = self._catalogue.pointing(alias, name)

    def delete_alias(self, alias: str) -> None:
        """Take the alias away, if it is there."""
        with self._lock:
            with self._store.writing() as writer:
                writer.delete_alias(alias)
            self._catalogue = self._catalogue.pointing(alias, None)

    def upsert(self, collection: Collection, batch: Batch) -> Upserted:
        """Write documents that were checked against the collection's schema. Raises NotFound when it was dropped."""
        # Most of the work of a write is done here, where it keeps nobody waiting.
        block = block_of(collection.schema, np.empty(0, dtype=np.int64), batch)
        with self._lock:
            present = self._catalogue.same(collection)
            with self._store.writing() as writer:
                written = writer.upsert(present.key, batch)
                view = present.view.after(written.version, written.removed, replace(block, rows=written.added))
            self._publish(present, view)
        self._builder.wake()
        replaced = len(written.removed)
        return Upserted(len(block.ids) - replaced, replaced, written.version)

    def delete(self, collection: Collection, chosen: Sequence[str] | Filter) -> Deleted:
        """Delete by ids, or by a filter that was checked against the schema.

        Raises NotFound when it was dropped, and DeadlineExpired or Cancelled, with nothing deleted, when the caller
        waits no longer.
        """
        # A filter takes its time here, where it keeps no other write waiting; under the lock only new blocks are left.
        before = collection.view
        known = {} if isinstance(chosen, Sequence) else matching(before, chosen, check)
        with self._lock:
            present = self._catalogue.same(collection)
            with self._store.writing() as writer:
                if isinstance(chosen, Sequence):
                    rows = writer.rows(present.key, chosen)
                else:
                    found = matching(present.view, chosen, check, known)
                    alive = [part.alive & found[id(part.block)] for part in present.view.parts]
                    rows = rows_of(present.view, alive)
                if not len(rows):
                    return Deleted(0, present.view.version)
                written = writer.delete(present.key, rows)
                view = present.view.after(written.version, written.removed)
            self._publish(present, view)
        self._builder.wake()
        return Deleted(len(rows), written.version)

    def build_segments(self, is_stopped: Callable[[], bool]) -> None:
        """Build the segments that are due. Raises Stopped, and OSError when the disk does not take one."""
        if not self._store.is_writable:
            return
        with self._building:
            for collection in self._catalogue.collections.values():
                if is_due(collection.view, self._segment_documents):
                    folder = self._folder(collection.stored)
                    segment, last_row = build(collection.view, collection.schema, folder, is_stopped)
                    self._adopt(collection, segment, last_row)
                    fields = {"collection": collection.stored.name, "documents": len(segment.ids)}
                    logger.info("segment built", extra=fields)

    def optimize(self, collection: Collection, is_stopped: Callable[[], bool]) -> tuple[Statistics, Statistics]:
        """Merge a collection now; how it was held before, and after.

        Raises NotFound when it was dropped, PreconditionFailed when the disk does not take it, and Stopped.
        """
        if not self._store.is_writable:
            raise unwritable("the data folder is read-only")
        with self._alone(is_stopped):
            present = self._catalogue.same(collection)
            before = self.statistics(present)
            if not present.view.parts:
                remove_others(self._folder(present.stored), None)
            elif not is_merged(present.view, self._segment_documents):
                try:
                    self._merge(present, is_stopped)
                # FAISS reports a full disk as a RuntimeError.
                except (OSError, RuntimeError) as error:
                    raise unwritable(error) from error
        return before, self.statistics(self._catalogue.same(collection))

    def statistics(self, collection: Collection) -> Statistics:
        """How a collection is held."""
        with self._store.reading() as reader:
            mean = reader.document_bytes(collection.key)
        view = collection.view
        return statistics(view, self._folder(collection.stored), int(mean * view.document_count))

    def memory_bytes(self, collection: Collection) -> int:
        """About how many bytes of memory a collection takes."""
        return memory_bytes(collection.view, self._folder(collection.stored))

    def segment_bytes(self, collection: Collection) -> int:
        """Bytes of the files of a collection's segments."""
        return folder_bytes(self._folder(collection.stored))

    def copy_to(self, folder: Path, is_stopped: Callable[[], bool]) -> None:
        """A data folder of its own with all there is at one moment, while reads and writes go on.

        Raises PreconditionFailed when the disk does not take it, OSError, and Stopped.
        """
        needed, room = self._store.size_bytes, shutil.disk_usage(folder).free - _ROOM_LEFT
        if self._segments.exists() and self._segments.stat().st_dev != folder.stat().st_dev:
            needed += folder_bytes(self._segments)
        if room < needed:
            raise unwritable(f"expected {needed:,} bytes of room in {folder}, got {max(room, 0):,}")
        # Segments first: what is written after them lies beyond them, so they fit a later state of the store.
        copy_segments(self._segments, folder / SEGMENTS)
        self._store.copy_to(folder / DATABASE, is_stopped)

    @contextmanager
    def _alone(self, is_stopped: Callable[[], bool]) -> Iterator[None]:
        """Nothing else is built in the block. Raises Stopped."""
        while not self._building.acquire(timeout=_LOOK_S):
            if is_stopped():
                raise Stopped
        try:
            yield
        finally:
            self._building.release()

    def _merge(self, collection: Collection, is_stopped: Callable[[], bool]) -> None:
        folder = self._folder(collection.stored)
        block, last_row = merge(collection.view, collection.schema, folder, self._segment_documents, is_stopped)
        self._adopt(collection, block, last_row)

    def _create(self, name: str, schema: Schema) -> Collection:
        if len(self._catalogue.collections) >= self._max_collections:
            raise QuotaExceeded(
                f"expected at most {self._max_collections} collections, this would be one more",
                metadata={"expected_max": self._max_collections},
            )
        created_us = self._now_us()
        with self._store.writing() as writer:
            key = writer.create(name, schema, created_us)
        created = Collection(Stored(key, name, schema, created_us, 0), View(0))
        self._catalogue = self._catalogue.having(created)
        return created

    def _publish(self, collection: Collection, view: View) -> None:
        self._catalogue = self._catalogue.having(replace(collection, view=view))

    def _folder(self, stored: Stored) -> Path:
        return self._segments / str(stored.key)

    def _loaded(self) -> Catalogue:
        """All collections and aliases, from segments and store. Raises StartFailed when the store is damaged."""
        try:
            with self._store.reading() as reader:
                loaded = [Collection(one, load_view(reader, one, self._folder(one))) for one in reader.collections()]
                aliases = reader.aliases()
        except sqlite3.DatabaseError as error:
            self._store.close()
            raise StartFailed(f"the store is damaged: {error}; restore it from a backup") from error
        if self._store.is_writable:
            remove_leftovers(self._segments, {str(collection.key) for collection in loaded})
        for one in loaded:
            counts = {"documents": one.view.document_count, "indexed": one.view.indexed_count}
            logger.info("loaded", extra={"collection": one.stored.name, **counts})
        return Catalogue({collection.stored.name: collection for collection in loaded}, aliases)

    def _adopt(self, built: Collection, segment: Block, last_row: int) -> None:
        """Search the segment from now on, unless its collection was dropped meanwhile."""
        with self._lock:
            present = self._catalogue.collections.get(built.stored.name)
            if present is not None and present.key == built.key:
                self._publish(present, with_segment(present.view, segment, last_row))
                remove_others(self._folder(built.stored), last_row)
                return
        shutil.rmtree(self._folder(built.stored), ignore_errors=True)
