"""The Milvus engine: the same API and results as the embedded engine, with collections in Milvus."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from pymilvus import DataType, Function, FunctionType, MilvusClient
from sluice.errors import AlreadyExists, BackendFailed, InvalidRequest, PreconditionFailed, QuotaExceeded

from services.retrieval.domain.collections import CollectionStatistics
from services.retrieval.domain.documents import Batch
from services.retrieval.domain.engine_protocol import DeleteResult, UpsertResult
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import ANALYSIS_VERSION, Schema
from services.retrieval.milvus import fields, rows
from services.retrieval.milvus.collections import (
    PROPERTY,
    VERSIONS,
    Definition,
    MilvusCatalog,
    MilvusCollection,
    Versions,
    to_milvus,
)
from services.retrieval.milvus.connection import STRONG, Address, Connection
from services.retrieval.milvus.expressions import ids_in
from services.retrieval.milvus.fields import Index
from services.retrieval.milvus.reader import MilvusReader

logger = logging.getLogger(__name__)

# Concurrent searches of all requests together.
_SEARCH_THREADS: Final = 32
_KEY_BITS: Final = 53


class MilvusEngine:
    """All collections of Sluice in one database of Milvus. It is stateless, so replicas may start and stop."""

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float,
        dense_index: str,
        max_collections: int,
        now_us: Callable[[], int],
    ) -> None:
        self._connection = Connection(address, timeout_s=timeout_s)
        self._versions = Versions(self._connection, now_us)
        self._catalog = MilvusCatalog(self._connection, self._versions)
        self._dense_index = dense_index
        self._max_collections = max_collections
        self._now_us = now_us
        self._creating = threading.Lock()
        self._executor = ThreadPoolExecutor(_SEARCH_THREADS, thread_name_prefix="milvus")

    def close(self) -> None:
        """Close the connection. The engine must not be used afterwards."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._connection.close()

    @property
    def catalog(self) -> MilvusCatalog:
        """All collections and aliases."""
        return self._catalog

    @contextmanager
    def reader(self, name: str) -> Iterator[MilvusReader]:
        """Open the collection with this name or alias for reading. Raises NotFound."""
        yield self._reader(self._catalog.find(name))

    def create(self, name: str, schema: Schema) -> MilvusCollection:
        """Create and load a collection, or return the existing one if its schema is equal.

        Raises AlreadyExists if an alias, a collection with another schema or a collection of another program has the
        name, QuotaExceeded if there are too many collections, and InvalidRequest for an unsupported schema.
        """
        unsupported = fields.unsupported(schema, self._connection.version)
        if unsupported:
            raise InvalidRequest(f"{unsupported[0].field}: {unsupported[0].description}", violations=unsupported)
        with self._creating:
            created = self._create(name, schema) if self._existing(name) is None else None
        # Another replica may have created it first, so the collection in Milvus counts. A replica that was stopped
        # during the creation may have left it without an index, or not loaded.
        found = self._catalog.find(name)
        if found.record.schema != schema:
            raise AlreadyExists(f"collection {name!r} exists with another schema", metadata={"collection": name})
        try:
            self._finish(found.milvus_name, fields.indexes(schema, found.dense_index))
        except (BackendFailed, InvalidRequest):
            if found.key == created:
                self._connection.call_slow("drop_collection", found.milvus_name)
            raise
        return found

    def drop(self, name: str) -> int:
        """Delete a collection, not an alias, with its aliases, and return its document count. Raises NotFound."""
        collection = self._catalog.get(name)
        count = collection.document_count
        for alias in self._connection.call("list_aliases", collection.milvus_name)["aliases"]:
            self._connection.call("drop_alias", alias)
        self._connection.call_slow("drop_collection", collection.milvus_name)
        self._versions.forget(collection.key)
        return count

    def set_alias(self, alias: str, name: str) -> None:
        """Point an alias at a collection in one step.

        Raises NotFound if there is no such collection, AlreadyExists if a collection has the name of the alias.
        """
        collection = self._catalog.get(name)
        target = to_milvus(alias)
        if target in self._connection.call("list_collections"):
            raise AlreadyExists(f"{alias!r} is a collection; choose another alias", metadata={"collection": alias})
        exists = target in self._connection.call("list_aliases", "")["aliases"]
        self._connection.call("alter_alias" if exists else "create_alias", collection.milvus_name, target)

    def delete_alias(self, alias: str) -> None:
        """Delete an alias if it exists."""
        if to_milvus(alias) in self._connection.call("list_aliases", "")["aliases"]:
            self._connection.call("drop_alias", to_milvus(alias))

    def upsert(self, collection: MilvusCollection, batch: Batch) -> UpsertResult:
        """Write documents that match the collection's schema by one call to Milvus.

        Raises NotFound if the collection was dropped, InvalidRequest for values that Milvus cannot store.
        """
        written = rows.rows_of(batch, collection.schema)
        self._catalog.check_current(collection)
        self._connection.refresh_schema(collection.milvus_name, collection.key)
        replaced = self._reader(collection).count_of(ids_in([one.document_id for one in batch.documents]))
        self._connection.call("upsert", collection.milvus_name, written)
        return UpsertResult(len(written) - replaced, replaced, self._versions.advance(collection.key))

    def delete(self, collection: MilvusCollection, chosen: Sequence[str] | Filter) -> DeleteResult:
        """Delete documents by id, or by a filter that matches the schema. Raises NotFound if it was dropped."""
        self._catalog.check_current(collection)
        reader = self._reader(collection)
        expression = reader.matching(chosen)
        count = reader.count_of(expression)
        if not count:
            return DeleteResult(0, collection.version)
        self._connection.call("delete", collection.milvus_name, filter=expression, consistency_level=STRONG)
        return DeleteResult(count, self._versions.advance(collection.key))

    def statistics(self, collection: MilvusCollection) -> CollectionStatistics:
        """Return zeros. The metrics of Milvus contain the sizes."""
        return CollectionStatistics(0, 0, 0, 0, 0, 0, 0)

    def optimize(self, collection: MilvusCollection, is_stopped: Callable[[], bool]) -> NoReturn:
        """Raise PreconditionFailed, because Milvus compacts automatically."""
        raise PreconditionFailed("Milvus compacts its collections automatically; it cannot be requested")

    def copy_to(self, folder: Path, is_stopped: Callable[[], bool]) -> NoReturn:
        """Raise PreconditionFailed, because snapshots need a data folder."""
        raise PreconditionFailed("snapshots need a data folder, but the documents are in Milvus; use backups of Milvus")

    def _reader(self, collection: MilvusCollection) -> MilvusReader:
        return MilvusReader(self._connection, collection, self._executor)

    def _existing(self, name: str) -> MilvusCollection | None:
        milvus_name = to_milvus(name)
        found = self._catalog.describe(milvus_name)
        if found is not None and found.record.name != name:
            raise AlreadyExists(f"{name!r} is an alias; choose another name", metadata={"collection": name})
        if found is None and self._catalog.exists(milvus_name):
            message = f"Milvus has a collection {milvus_name!r} that was not created by Sluice; choose another name"
            raise AlreadyExists(message, metadata={"collection": name})
        return found

    def _create(self, name: str, schema: Schema) -> int:
        """Create a collection and return its key. Milvus accepts it silently if another replica created the same."""
        if len(self._catalog.collections) >= self._max_collections:
            raise QuotaExceeded(
                f"expected at most {self._max_collections} collections, got one more; drop one or raise the limit",
                metadata={"expected_max": self._max_collections},
            )
        self._prepare_versions()
        key = secrets.randbits(_KEY_BITS)
        definition = Definition(
            name=name,
            key=key,
            created_us=self._now_us(),
            dense_index=self._dense_index,
            definition=schema,
            analysis=ANALYSIS_VERSION,
        )
        target = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        fields.add_fields(target, schema, DataType, _bm25)
        # Without text fields the version is left out, so that earlier releases can read the definition.
        written = definition.model_dump_json(exclude=None if schema.text else {"analysis"})
        self._create_in_milvus(to_milvus(name), target, {PROPERTY: written})
        return key

    def _create_in_milvus(self, milvus_name: str, schema: Any, properties: dict[str, str]) -> None:
        settings = {"properties": properties, "num_shards": 1, "consistency_level": STRONG}
        self._connection.call_slow("create_collection", milvus_name, schema=schema, **settings)

    def _finish(self, milvus_name: str, indexes: Sequence[Index]) -> None:
        """Create missing indexes, and load the collection."""
        existing = self._connection.call("list_indexes", milvus_name)
        missing = MilvusClient.prepare_index_params()
        for one in indexes:
            if one.field not in existing:
                missing.add_index(one.field, one.kind, one.field, metric_type=one.metric, params=dict(one.params))
        if len(missing):
            self._connection.call_slow("create_index", milvus_name, missing)
        if self._connection.call("get_load_state", milvus_name)["state"].name != "Loaded":
            self._connection.call_slow("load_collection", milvus_name)

    def _prepare_versions(self) -> None:
        """Create and load the collection of versions if it does not exist."""
        if not self._connection.call("has_collection", VERSIONS):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(fields.ID, DataType.VARCHAR, is_primary=True, max_length=32)
            schema.add_field("Version", DataType.INT64)
            # Every collection of Milvus needs a vector field.
            schema.add_field("Nothing", DataType.FLOAT_VECTOR, dim=2)
            self._create_in_milvus(VERSIONS, schema, {})
        self._finish(VERSIONS, [Index("Nothing", "FLAT", "L2", {})])


def _bm25(name: str, words: str) -> Function:
    return Function(name=name, function_type=FunctionType.BM25, input_field_names=[words], output_field_names=[name])
