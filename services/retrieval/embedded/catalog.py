"""All collections and aliases as an immutable value, which every write replaces as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.retrieval.domain.collections import CollectionRecord
from services.retrieval.domain.errors import dropped_collection, no_collection
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.index.view import View


@dataclass(frozen=True)
class EmbeddedCollection:
    """A collection and its current view."""

    record: CollectionRecord
    view: View

    @property
    def schema(self) -> Schema:
        """The fields of the collection."""
        return self.record.schema

    @property
    def key(self) -> int:
        """Number of the collection, never reused."""
        return self.record.key


@dataclass(frozen=True)
class EmbeddedCatalog:
    """Collections by name, and the collection name of each alias."""

    collections: Mapping[str, EmbeddedCollection] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> EmbeddedCollection:
        """Return the collection with this name or alias. Raises NotFound."""
        return self.get(self.aliases.get(name, name))

    def get(self, name: str) -> EmbeddedCollection:
        """Return the collection with this name; aliases are not resolved. Raises NotFound."""
        found = self.collections.get(name)
        if found is None:
            raise no_collection(name)
        return found

    def current(self, collection: EmbeddedCollection) -> EmbeddedCollection:
        """Return the current state of a collection.

        Raises NotFound if it was dropped, even if a new collection has its name.
        """
        found = self.collections.get(collection.record.name)
        if found is None or found.key != collection.key:
            raise dropped_collection(collection.record.name)
        return found

    def with_collection(self, collection: EmbeddedCollection) -> "EmbeddedCatalog":
        """Return the catalog with a new collection, or a new state of an existing one."""
        return replace(self, collections={**self.collections, collection.record.name: collection})

    def without_collection(self, name: str) -> "EmbeddedCatalog":
        """Return the catalog without a collection and its aliases."""
        collections = {key: value for key, value in self.collections.items() if key != name}
        aliases = {alias: target for alias, target in self.aliases.items() if target != name}
        return EmbeddedCatalog(collections, aliases)

    def with_alias(self, alias: str, name: str) -> "EmbeddedCatalog":
        """Return the catalog with the alias pointing at a collection."""
        return replace(self, aliases={**self.aliases, alias: name})

    def without_alias(self, alias: str) -> "EmbeddedCatalog":
        """Return the catalog without an alias."""
        return replace(self, aliases={key: target for key, target in self.aliases.items() if key != alias})
