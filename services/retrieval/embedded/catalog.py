"""All collections and aliases of one moment: an immutable value, replaced as a whole at every write."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import NotFound

from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.storage.row_reader import Stored

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,127}")
"""What a collection or an alias may be called."""
# Characters of an unknown name that an error repeats.
_SHOWN: Final = 128


@dataclass(frozen=True)
class Collection:
    """A collection and its present state."""

    stored: Stored
    view: View

    @property
    def schema(self) -> Schema:
        """What it holds."""
        return self.stored.schema

    @property
    def key(self) -> int:
        """Its number, never used again."""
        return self.stored.key


@dataclass(frozen=True)
class Catalogue:
    """Collections by name, and the names that aliases mean."""

    collections: Mapping[str, Collection] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Collection:
        """The collection of that name or alias. Raises NotFound when there is none."""
        return self.own(self.aliases.get(name, name))

    def own(self, name: str) -> Collection:
        """The collection that has that name itself. Raises NotFound when there is none."""
        found = self.collections.get(name)
        if found is None:
            raise missing(name)
        return found

    def same(self, collection: Collection) -> Collection:
        """The present state of a collection. Raises NotFound when it was dropped, even if another has its name."""
        name = collection.stored.name
        found = self.collections.get(name)
        if found is None or found.key != collection.key:
            raise unknown(f"collection {name!r} was dropped meanwhile", name)
        return found

    def having(self, collection: Collection) -> "Catalogue":
        """The catalogue with the collection's new state."""
        return replace(self, collections={**self.collections, collection.stored.name: collection})

    def without(self, name: str) -> "Catalogue":
        """The catalogue without a collection and its aliases."""
        collections = {key: value for key, value in self.collections.items() if key != name}
        return Catalogue(collections, {alias: meant for alias, meant in self.aliases.items() if meant != name})

    def pointing(self, alias: str, name: str | None) -> "Catalogue":
        """The catalogue with the alias meaning that collection; None takes the alias away."""
        others = {key: meant for key, meant in self.aliases.items() if key != alias}
        return replace(self, aliases=others if name is None else {**others, alias: name})


def missing(name: str) -> NotFound:
    """Return the error for a name that no collection and no alias has."""
    return unknown(f"no collection {name[:_SHOWN]!r}", name[:_SHOWN])


def unknown(message: str, name: str) -> NotFound:
    """The error for a collection that is not there."""
    reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
    return NotFound(message, reason=reason, metadata={"collection": name})
