"""The Milvus engine: the same answers as the embedded engine, from collections in Milvus."""

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

from services.retrieval.domain.documents import Batch
from services.retrieval.domain.engine_protocol import Deleted, Upserted
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import ANALYSIS, Schema
from services.retrieval.embedded.statistics import Statistics
from services.retrieval.milvus import fields, rows
from services.retrieval.milvus.collections import (
    PROPERTY,
    VERSIONS,
    Definition,
    MilvusCatalogue,
    MilvusCollection,
    Versions,
    in_milvus,
)
from services.retrieval.milvus.connection import STRONG, Address, Connection
from services.retrieval.milvus.expressions import ids_in
from services.retrieval.milvus.fields import Index
from services.retrieval.milvus.reader import MilvusMoment

logger = logging.getLogger(__name__)

# Searches of one request that run at the same time, and those of several requests together.
_SEARCHES: Final = 32
_KEY_BITS: Final = 53


class MilvusEngine:
    """All our collections of one database of Milvus. It keeps nothing: replicas may come and go."""

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
        self._catalogue = MilvusCatalogue(self._connection, self._versions)
        self._dense_index = dense_index
        self._max_collections = max_collections
        self._now_us = now_us
        self._creating = threading.Lock()
        self._executor = ThreadPoolExecutor(_SEARCHES, thread_name_prefix="milvus")

    def close(self) -> None:
        """Close the connection. Nothing may use the engine any more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._connection.close()

    @property
    def catalogue(self) -> MilvusCatalogue:
        """All collections and aliases."""
        return self._catalogue

    @contextmanager
    def moment(self, name: str) -> Iterator[MilvusMoment]:
        """The collection of that name or alias, to read. Raises NotFound."""
        yield self._moment(self._catalogue.find(name))

    def create(self, name: str, schema: Schema) -> MilvusCollection:
        """The new collection, or the one that is there with an equal schema, loaded.

        Raises AlreadyExists when an alias, another schema or another's collection has the name, QuotaExceeded when
        there are too many, InvalidRequest for what Milvus cannot hold.
        """
        refused = fields.refusals(schema, self._connection.version)
        if refused:
            raise InvalidRequest(f"{refused[0].field}: {refused[0].description}", violations=refused)
        with self._creating:
            made = self._make(name, schema) if self._existing(name) is None else None
        # Another replica may have been first: what is in Milvus counts. One that ended while it created it may have
        # left it without an index, or not loaded.
        found = self._catalogue.find(name)
        if found.stored.schema != schema:
            raise AlreadyExists(f"collection {name!r} exists with another schema", metadata={"collection": name})
        try:
            self._finish(found.place, fields.indexes(schema, found.dense_index))
        except (BackendFailed, InvalidRequest):
            if found.key == made:
                self._connection.call_slow("drop_collection", found.place)
            raise
        return found

    def drop(self, name: str) -> int:
        """Delete a collection, named by its own name, and its aliases; how many documents it had. Raises NotFound."""
        collection = self._catalogue.own(name)
        count = collection.document_count
        for alias in self._connection.call("list_aliases", collection.place)["aliases"]:
            self._connection.call("drop_alias", alias)
        self._connection.call_slow("drop_collection", collection.place)
        self._versions.forget(collection.key)
        return count

    def set_alias(self, alias: str, name: str) -> None:
        """Let the alias mean that collection from now on, in one step.

        Raises NotFound when there is no such collection, AlreadyExists when the alias is the name of one.
        """
        collection = self._catalogue.own(name)
        place = in_milvus(alias)
        if place in self._connection.call("list_collections"):
            raise AlreadyExists(f"{alias!r} is a collection; choose another alias", metadata={"collection": alias})
        is_there = place in self._connection.call("list_aliases", "")["aliases"]
        self._connection.call("alter_alias" if is_there else "create_alias", collection.place, place)

    def delete_alias(self, alias: str) -> None:
        """Take the alias away, if it is there."""
        if in_milvus(alias) in self._connection.call("list_aliases", "")["aliases"]:
            self._connection.call("drop_alias", in_milvus(alias))

    def upsert(self, collection: MilvusCollection, batch: Batch) -> Upserted:
        """Write documents that were checked against the collection's schema, all by one call to Milvus.

        Raises NotFound when it was dropped, InvalidRequest for what Milvus cannot hold.
        """
        made = rows.rows(batch, collection.schema)
        self._catalogue.same(collection)
        self._connection.holds(collection.place, collection.key)
        there = self._moment(collection).count_of(ids_in([one.document_id for one in batch.documents]))
        self._connection.call("upsert", collection.place, made)
        return Upserted(len(made) - there, there, self._versions.rise(collection.key))

    def delete(self, collection: MilvusCollection, chosen: Sequence[str] | Filter) -> Deleted:
        """Delete by ids, or by a filter that was checked against the schema. Raises NotFound when it was dropped."""
        self._catalogue.same(collection)
        moment = self._moment(collection)
        expression = moment.matching(chosen)
        count = moment.count_of(expression)
        if not count:
            return Deleted(0, collection.version)
        self._connection.call("delete", collection.place, filter=expression, consistency_level=STRONG)
        return Deleted(count, self._versions.rise(collection.key))

    def statistics(self, collection: MilvusCollection) -> Statistics:
        """Nothing: how a collection is held, Milvus's own metrics tell."""
        return Statistics(0, 0, 0, 0, 0, 0, 0)

    def optimize(self, collection: MilvusCollection, is_stopped: Callable[[], bool]) -> NoReturn:
        """Raises PreconditionFailed: Milvus merges by itself."""
        raise PreconditionFailed("Milvus merges and compacts its collections by itself; it is not done on request")

    def copy_to(self, folder: Path, is_stopped: Callable[[], bool]) -> NoReturn:
        """Raises PreconditionFailed: snapshots are of a data folder."""
        raise PreconditionFailed("the documents are in Milvus: use its own backups")

    def _moment(self, collection: MilvusCollection) -> MilvusMoment:
        return MilvusMoment(self._connection, collection, self._executor)

    def _existing(self, name: str) -> MilvusCollection | None:
        place = in_milvus(name)
        found = self._catalogue.described(place)
        if found is not None and found.stored.name != name:
            raise AlreadyExists(f"{name!r} is an alias; choose another name", metadata={"collection": name})
        if found is None and self._catalogue.is_taken(place):
            raise AlreadyExists(f"Milvus has {place!r}, which is not of this Sluice", metadata={"collection": name})
        return found

    def _make(self, name: str, schema: Schema) -> int:
        """Make the collection, and tell its key. Milvus takes it silently when another replica made the same."""
        if len(self._catalogue.collections) >= self._max_collections:
            raise QuotaExceeded(
                f"expected at most {self._max_collections} collections, this would be one more",
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
            analysis=ANALYSIS,
        )
        made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        fields.add_fields(made, schema, DataType, _bm25)
        # Without words there is no analysis to name, and earlier releases can read it.
        written = definition.model_dump_json(exclude=None if schema.text else {"analysis"})
        self._create(in_milvus(name), made, {PROPERTY: written})
        return key

    def _create(self, place: str, schema: Any, properties: dict[str, str]) -> None:
        settings = {"properties": properties, "num_shards": 1, "consistency_level": STRONG}
        self._connection.call_slow("create_collection", place, schema=schema, **settings)

    def _finish(self, place: str, indexes: Sequence[Index]) -> None:
        """Make the indexes that are not there, and load it."""
        there = self._connection.call("list_indexes", place)
        missing = MilvusClient.prepare_index_params()
        for one in indexes:
            if one.field not in there:
                missing.add_index(one.field, one.kind, one.field, metric_type=one.metric, params=dict(one.params))
        if len(missing):
            self._connection.call_slow("create_index", place, missing)
        if self._connection.call("get_load_state", place)["state"].name != "Loaded":
            self._connection.call_slow("load_collection", place)

    def _prepare_versions(self) -> None:
        """Make and load the collection of the versions, unless it is there."""
        if not self._connection.call("has_collection", VERSIONS):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(fields.ID, DataType.VARCHAR, is_primary=True, max_length=32)
            schema.add_field("Version", DataType.INT64)
            # Every collection of Milvus needs a vector.
            schema.add_field("Nothing", DataType.FLOAT_VECTOR, dim=2)
            self._create(VERSIONS, schema, {})
        self._finish(VERSIONS, [Index("Nothing", "FLAT", "L2", {})])


def _bm25(name: str, words: str) -> Function:
    return Function(name=name, function_type=FunctionType.BM25, input_field_names=[words], output_field_names=[name])
