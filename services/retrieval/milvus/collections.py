"""Collections in Milvus. Their definitions are stored as properties, and their versions as rows of a collection.

Rule: nothing that Milvus stores is cached here, so any number of replicas can serve the same collections.

A version is the time of the last write in microseconds, or the last version of this replica plus one. Versions are
rows, because properties are not meant to change with every write.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from sluice.errors import NotFound

from services.retrieval.domain.collections import NAME, CollectionRecord
from services.retrieval.domain.errors import dropped_collection, no_collection, unknown_collection
from services.retrieval.domain.schema import Schema
from services.retrieval.milvus import fields
from services.retrieval.milvus.connection import STRONG, Connection

PROPERTY: Final = "sluice.definition"
# Names of other collections contain no uppercase letters except D, so they never collide with this one.
VERSIONS: Final = "SluiceVersions"


class Definition(BaseModel):
    """The definition of a collection, as stored in its property. `key` is its number and is never reused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    key: int
    created_us: int
    dense_index: str
    definition: Schema
    analysis: int = 1
    """Version of the text analysis of the stored words. Definitions of earlier releases do not contain it."""

    @property
    def analyzed(self) -> Schema:
        """The fields of the collection, with the version of text analysis."""
        analysis = {"analysis": self.analysis}
        text = tuple(field.model_copy(update=analysis) for field in self.definition.text)
        return self.definition.model_copy(update={"text": text})


@dataclass(frozen=True)
class CollectionSize:
    """The size and version of a collection."""

    document_count: int
    version: int


class MilvusCollection:
    """A collection. Its size and version are looked up on access."""

    def __init__(self, definition: Definition, connection: Connection, versions: "Versions") -> None:
        self._definition = definition
        self._connection = connection
        self._versions = versions

    @property
    def record(self) -> CollectionRecord:
        """The stored facts about the collection."""
        stored = self._definition
        return CollectionRecord(stored.key, stored.name, stored.definition, stored.created_us, 0)

    @property
    def schema(self) -> Schema:
        """The fields of the collection, with the version of text analysis."""
        return self._definition.analyzed

    @property
    def key(self) -> int:
        """Number of the collection, never reused."""
        return self._definition.key

    @property
    def dense_index(self) -> str:
        """Type of the index of its dense fields."""
        return self._definition.dense_index

    @property
    def milvus_name(self) -> str:
        """Name of the collection in Milvus."""
        return to_milvus(self._definition.name)

    @property
    def version(self) -> int:
        """Number of the last write."""
        return self._versions.of(self.key)

    @property
    def document_count(self) -> int:
        """Number of documents."""
        counted = self._connection.call(
            "query", self.milvus_name, filter="", output_fields=["count(*)"], consistency_level=STRONG
        )
        return int(counted[0]["count(*)"])

    @property
    def view(self) -> CollectionSize:
        """The size and version of the collection."""
        return CollectionSize(self.document_count, self.version)


class MilvusCatalog:
    """All collections and aliases, looked up in Milvus on access."""

    def __init__(self, connection: Connection, versions: "Versions") -> None:
        self._connection = connection
        self._versions = versions

    @property
    def collections(self) -> Mapping[str, MilvusCollection]:
        """All collections of Sluice by name."""
        names = self._connection.call("list_collections")
        found = [self.describe(name) for name in names]
        return {one.record.name: one for one in found if one is not None}

    @property
    def aliases(self) -> Mapping[str, str]:
        """The collection name of each alias."""
        aliases: dict[str, str] = {}
        for alias in self._connection.call("list_aliases", "")["aliases"]:
            target = self._connection.call("describe_alias", alias)["collection_name"]
            aliases[from_milvus(alias)] = from_milvus(target)
        return aliases

    def find(self, name: str) -> MilvusCollection:
        """Return the collection with this name or alias. Raises NotFound."""
        # Invalid names are not looked up: Milvus rejects some, and an uppercase D would be taken for a hyphen.
        found = self.describe(to_milvus(name)) if NAME.fullmatch(name) else None
        if found is None:
            raise no_collection(name)
        return found

    def get(self, name: str) -> MilvusCollection:
        """Return the collection with this name; aliases are not resolved. Raises NotFound."""
        found = self.find(name)
        if found.record.name != name:
            raise unknown_collection(f"no collection {name!r}; it is an alias of {found.record.name!r}", name)
        return found

    def check_current(self, collection: MilvusCollection) -> None:
        """Raise NotFound if the collection was dropped, even if a new collection has its name."""
        present = self.describe(collection.milvus_name)
        if present is None or present.key != collection.key:
            raise dropped_collection(collection.record.name)

    def describe(self, milvus_name: str) -> MilvusCollection | None:
        """Return the collection with this name or alias in Milvus; None if there is none or it is not from Sluice."""
        try:
            described = self._connection.call("describe_collection", milvus_name)
        except NotFound:
            return None
        definition = _definition(described)
        return None if definition is None else MilvusCollection(definition, self._connection, self._versions)

    def exists(self, milvus_name: str) -> bool:
        """Return whether Milvus has a collection with this name, from Sluice or not."""
        return bool(self._connection.call("has_collection", milvus_name))


class Versions:
    """The versions of all collections, one row each."""

    def __init__(self, connection: Connection, now_us: Callable[[], int]) -> None:
        self._connection = connection
        self._now_us = now_us
        self._lock = threading.Lock()
        self._last = 0

    def of(self, key: int) -> int:
        """Return the version of a collection, 0 before its first write."""
        found = self._connection.call(
            "query", VERSIONS, filter=_by_key(key), output_fields=["Version"], consistency_level=STRONG
        )
        return int(found[0]["Version"]) if found else 0

    def advance(self, key: int) -> int:
        """Store and return the new version of a collection after a write."""
        with self._lock:
            self._last = version = max(self._last + 1, self._now_us())
        self._connection.call("upsert", VERSIONS, [{fields.ID: str(key), "Version": version, "Nothing": [0.0, 0.0]}])
        return version

    def forget(self, key: int) -> None:
        """Delete the version of a dropped collection."""
        self._connection.call("delete", VERSIONS, filter=_by_key(key))


def to_milvus(name: str) -> str:
    """Return the name in Milvus. Milvus allows no hyphens, and names of Sluice have no uppercase letters."""
    return name.replace("-", "D")


def from_milvus(name: str) -> str:
    """Return the name in Sluice; the inverse of `to_milvus`."""
    return name.replace("D", "-")


def _by_key(key: int) -> str:
    return f'{fields.ID} == "{key}"'


def _definition(described: Mapping[str, Any]) -> Definition | None:
    """Return the definition in the property; None if there is none, or a newer release wrote it."""
    given = dict(described.get("properties") or {}).get(PROPERTY)
    try:
        return None if given is None else Definition.model_validate(json.loads(given))
    except (ValidationError, ValueError):
        return None
