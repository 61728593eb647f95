"""The protocol that the embedded engine and the Milvus engine implement.

Rule: a method that may wait for a disk or a server runs in a thread lane, where `lanes.remaining_s` returns the time
that is left.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from services.retrieval.domain.collections import CollectionRecord, CollectionStatistics
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import CascadeQuery, Found, IsOver, Query
from services.retrieval.domain.schema import Schema


class CollectionState(Protocol):
    """The size and version of a collection."""

    @property
    def version(self) -> int:
        """Number of the last write. Every write raises it."""

    @property
    def document_count(self) -> int:
        """Number of documents."""


class Collection(Protocol):
    """A collection as it was when it was looked up."""

    @property
    def record(self) -> CollectionRecord:
        """The stored facts about the collection."""

    @property
    def schema(self) -> Schema:
        """The fields of the collection."""

    @property
    def key(self) -> int:
        """Number of the collection, never reused."""

    @property
    def view(self) -> CollectionState:
        """The size and version of the collection."""


C = TypeVar("C", bound=Collection)
C_co = TypeVar("C_co", bound=Collection, covariant=True)


class Catalog(Protocol[C_co]):
    """All collections and aliases."""

    @property
    def collections(self) -> Mapping[str, C_co]:
        """All collections by name."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """The collection name of each alias."""

    def find(self, name: str) -> C_co:
        """Return the collection with this name or alias. Raises NotFound."""


class CollectionReader(Protocol[C_co]):
    """Read access to one collection."""

    @property
    def collection(self) -> C_co:
        """The collection that is read."""

    @property
    def schema(self) -> Schema:
        """The fields of the collection."""

    def apply_feedback(self, query: Query | CascadeQuery) -> Query | CascadeQuery:
        """Return the query with its feedback documents applied to its vector. Raises InvalidRequest if unsupported."""

    def retrieve(
        self,
        queries: Sequence[Query | CascadeQuery],
        condition: Filter | None,
        is_over: IsOver,
        *,
        with_documents: bool,
    ) -> Found:
        """Find the candidates of each query, with their whole documents or only their ids."""

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """Return the documents with these ids in the given order. Unknown ids are skipped."""

    def count(self, condition: Filter | None) -> int:
        """Count the documents that match, or all of them without a filter."""

    def page(self, after: str, size: int, condition: Filter | None) -> tuple[list[Document], bool]:
        """Return up to `size` matching documents with ids above `after`, by id, and whether more follow."""


@dataclass(frozen=True)
class UpsertResult:
    """The counts and the new version after an upsert."""

    inserted_count: int
    replaced_count: int
    version: int


@dataclass(frozen=True)
class DeleteResult:
    """The count and the new version after a deletion."""

    deleted_count: int
    version: int


class Engine(Protocol[C]):
    """Collections of documents. A write is durable when its method returns."""

    @property
    def catalog(self) -> Catalog[C]:
        """All collections and aliases."""

    def reader(self, name: str) -> AbstractContextManager[CollectionReader[C]]:
        """Open the collection with this name or alias for reading. Raises NotFound."""

    def create(self, name: str, schema: Schema) -> C:
        """Create a collection, or return the existing one if its schema is equal.

        Raises AlreadyExists if an alias or a collection with another schema has the name, QuotaExceeded if there are
        too many collections, and InvalidRequest for a schema that this engine does not support.
        """

    def drop(self, name: str) -> int:
        """Delete a collection, not an alias, with its aliases, and return its document count. Raises NotFound."""

    def set_alias(self, alias: str, name: str) -> None:
        """Point an alias at a collection.

        Raises NotFound if there is no such collection, AlreadyExists if a collection has the name of the alias.
        """

    def delete_alias(self, alias: str) -> None:
        """Delete an alias if it exists."""

    def upsert(self, collection: C, batch: Batch) -> UpsertResult:
        """Write documents that match the collection's schema. Raises NotFound if the collection was dropped."""

    def delete(self, collection: C, chosen: Sequence[str] | Filter) -> DeleteResult:
        """Delete documents by id, or by a filter that matches the schema. Raises NotFound if it was dropped."""

    def statistics(self, collection: C) -> CollectionStatistics:
        """Return the sizes of a collection."""

    def optimize(
        self, collection: C, is_stopped: Callable[[], bool]
    ) -> tuple[CollectionStatistics, CollectionStatistics]:
        """Compact a collection, and return its statistics before and after. Raises PreconditionFailed if impossible."""

    def copy_to(self, folder: Path, is_stopped: Callable[[], bool]) -> None:
        """Write a consistent copy of all data as a data folder. Raises PreconditionFailed if impossible."""

    def close(self) -> None:
        """Release all resources. The engine must not be used afterwards."""
