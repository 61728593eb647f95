"""Collections in Milvus, and what we keep of them there: their definition as a property, their version as a row.

Rule: what Milvus knows is not remembered here. Any number of replicas may serve the same collections.

The version is the time of the last write in microseconds, or one more than the last this replica made. A row of a small
collection of our own keeps it: properties are not made to change with every write.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from sluice.errors import NotFound

from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.catalog import NAME, missing, unknown
from services.retrieval.embedded.storage.row_reader import Stored
from services.retrieval.milvus import fields
from services.retrieval.milvus.connection import STRONG, Connection

PROPERTY: Final = "sluice.definition"
# It begins with a capital, so no collection of a caller has this name.
VERSIONS: Final = "SluiceVersions"


class Definition(BaseModel):
    """What a collection is, as its property in Milvus keeps it. `key` is its number, never used again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    key: int
    created_us: int
    dense_index: str
    definition: Schema
    analysis: int = 1
    """Version of the analysis that wrote its words; those of earlier releases do not name it."""

    @property
    def analyzed(self) -> Schema:
        """What it holds, with the analysis of its words."""
        analysis = {"analysis": self.analysis}
        text = tuple(field.model_copy(update=analysis) for field in self.definition.text)
        return self.definition.model_copy(update={"text": text})


@dataclass(frozen=True)
class Size:
    """How much is in a collection now."""

    document_count: int
    version: int


class MilvusCollection:
    """A collection; its size is looked up when it is asked for."""

    def __init__(self, definition: Definition, connection: Connection, versions: "Versions") -> None:
        self._definition = definition
        self._connection = connection
        self._versions = versions

    @property
    def stored(self) -> Stored:
        """Its name, when it was created, and what it holds."""
        given = self._definition
        return Stored(given.key, given.name, given.definition, given.created_us, 0)

    @property
    def schema(self) -> Schema:
        """What it holds, with the analysis of its words."""
        return self._definition.analyzed

    @property
    def key(self) -> int:
        """Its number, never used again."""
        return self._definition.key

    @property
    def dense_index(self) -> str:
        """The kind of index that its dense fields have."""
        return self._definition.dense_index

    @property
    def place(self) -> str:
        """Its name in Milvus."""
        return in_milvus(self._definition.name)

    @property
    def version(self) -> int:
        """Number of its last write."""
        return self._versions.of(self.key)

    @property
    def document_count(self) -> int:
        """Documents in it now."""
        counted = self._connection.call(
            "query", self.place, filter="", output_fields=["count(*)"], consistency_level=STRONG
        )
        return int(counted[0]["count(*)"])

    @property
    def view(self) -> Size:
        """How much is in it now."""
        return Size(self.document_count, self.version)


class MilvusCatalogue:
    """All collections and aliases, as Milvus tells them when it is asked."""

    def __init__(self, connection: Connection, versions: "Versions") -> None:
        self._connection = connection
        self._versions = versions

    @property
    def collections(self) -> Mapping[str, MilvusCollection]:
        """Every collection of ours by its name."""
        names = self._connection.call("list_collections")
        found = [self.described(name) for name in names]
        return {one.stored.name: one for one in found if one is not None}

    @property
    def aliases(self) -> Mapping[str, str]:
        """The name of the collection that each alias means."""
        meant: dict[str, str] = {}
        for alias in self._connection.call("list_aliases", "")["aliases"]:
            place = self._connection.call("describe_alias", alias)["collection_name"]
            meant[from_milvus(alias)] = from_milvus(place)
        return meant

    def find(self, name: str) -> MilvusCollection:
        """The collection of that name or alias. Raises NotFound when there is none."""
        # Other names are not asked for: Milvus refuses some, and takes a capital for a hyphen of ours.
        found = self.described(in_milvus(name)) if NAME.fullmatch(name) else None
        if found is None:
            raise missing(name)
        return found

    def own(self, name: str) -> MilvusCollection:
        """The collection that has that name itself. Raises NotFound when there is none."""
        found = self.find(name)
        if found.stored.name != name:
            raise unknown(f"no collection {name!r}; it is an alias of {found.stored.name!r}", name)
        return found

    def same(self, collection: MilvusCollection) -> None:
        """Raises NotFound when the collection was dropped, even if another has its name."""
        name = collection.stored.name
        present = self.described(collection.place)
        if present is None or present.key != collection.key:
            raise unknown(f"collection {name!r} was dropped meanwhile", name)

    def described(self, place: str) -> MilvusCollection | None:
        """The collection with that name or alias in Milvus; None when there is none, or it is not of ours."""
        try:
            described = self._connection.call("describe_collection", place)
        except NotFound:
            return None
        definition = _definition(described)
        return None if definition is None else MilvusCollection(definition, self._connection, self._versions)

    def is_taken(self, place: str) -> bool:
        """Whether Milvus has something of that name, ours or not."""
        return bool(self._connection.call("has_collection", place))


class Versions:
    """The version of each collection: a row by its key."""

    def __init__(self, connection: Connection, now_us: Callable[[], int]) -> None:
        self._connection = connection
        self._now_us = now_us
        self._lock = threading.Lock()
        self._last = 0

    def of(self, key: int) -> int:
        """The version of a collection; 0 before its first write."""
        found = self._connection.call(
            "query", VERSIONS, filter=_by_key(key), output_fields=["Version"], consistency_level=STRONG
        )
        return int(found[0]["Version"]) if found else 0

    def rise(self, key: int) -> int:
        """The new version of a collection that was written to, on disk in Milvus."""
        with self._lock:
            self._last = version = max(self._last + 1, self._now_us())
        self._connection.call("upsert", VERSIONS, [{fields.ID: str(key), "Version": version, "Nothing": [0.0, 0.0]}])
        return version

    def forget(self, key: int) -> None:
        """Delete the version of a collection that was dropped."""
        self._connection.call("delete", VERSIONS, filter=_by_key(key))


def in_milvus(name: str) -> str:
    """A name as Milvus takes it, which knows no hyphens; ours know no capitals."""
    return name.replace("-", "D")


def from_milvus(place: str) -> str:
    """The name that `in_milvus` was given."""
    return place.replace("D", "-")


def _by_key(key: int) -> str:
    return f'{fields.ID} == "{key}"'


def _definition(described: Mapping[str, Any]) -> Definition | None:
    """What the collection is by its property; None when it is not ours, or of a newer version of ours."""
    given = dict(described.get("properties") or {}).get(PROPERTY)
    try:
        return None if given is None else Definition.model_validate(json.loads(given))
    except (ValidationError, ValueError):
        return None
