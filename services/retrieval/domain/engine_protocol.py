"""What the service asks of an engine. There are two: `engine` keeps everything itself, `milvus` asks a Milvus.

Rule: whatever of an engine may wait, for a disk or for a server, is called in a lane. There it finds the time that is
left with `workers.remaining_s`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.reader import Found
from services.retrieval.embedded.search.scoring import IsOver
from services.retrieval.embedded.search.search import Query, Staged
from services.retrieval.embedded.statistics import Statistics
from services.retrieval.embedded.storage.row_reader import Stored


class Held(Protocol):
    """What is in a collection."""

    @property
    def version(self) -> int:
        """Number of the last write; rises with every write."""

    @property
    def document_count(self) -> int:
        """Documents in it."""


class Collection(Protocol):
    """A collection, as it was when it was looked up."""

    @property
    def stored(self) -> Stored:
        """Its name, when it was created, and what it holds."""

    @property
    def schema(self) -> Schema:
        """What it holds."""

    @property
    def key(self) -> int:
        """Its number, never used again."""

    @property
    def view(self) -> Held:
        """What is in it."""


C = TypeVar("C", bound=Collection)
C_co = TypeVar("C_co", bound=Collection, covariant=True)


class Catalogue(Protocol[C_co]):
    """All collections and aliases."""

    @property
    def collections(self) -> Mapping[str, C_co]:
        """Every collection by its name."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """The name of the collection that each alias means."""

    def find(self, name: str) -> C_co:
        """The collection of that name or alias. Raises NotFound when there is none."""


class Moment(Protocol[C_co]):
    """Reading one collection."""

    @property
    def collection(self) -> C_co:
        """The collection."""

    @property
    def schema(self) -> Schema:
        """What the collection holds."""

    def fed_back(self, query: Query | Staged) -> Query | Staged:
        """The query, its vector moved by the documents of its feedback. Raises InvalidRequest where there is none."""

    def retrieve(
        self, queries: Sequence[Query | Staged], condition: Filter | None, is_over: IsOver, *, with_documents: bool
    ) -> Found:
        """Candidates of each query, with their documents when asked for, or else with their ids."""

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids, in their order; unknown ones left out."""

    def count(self, condition: Filter | None) -> int:
        """Documents that match; all when there is no filter."""

    def page(self, after: str, size: int, condition: Filter | None) -> tuple[list[Document], bool]:
        """Up to `size` documents with ids above `after` that match, by id; and whether there are more."""


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


class Engine(Protocol[C]):
    """Collections of documents, durable once a write returns."""

    @property
    def catalogue(self) -> Catalogue[C]:
        """All collections and aliases."""

    def moment(self, name: str) -> AbstractContextManager[Moment[C]]:
        """The collection of that name or alias, to read. Raises NotFound."""

    def create(self, name: str, schema: Schema) -> C:
        """The new collection, or the one that is there with an equal schema.

        Raises AlreadyExists when an alias or another schema has the name, QuotaExceeded when there are too many, and
        InvalidRequest for what this engine cannot hold.
        """

    def drop(self, name: str) -> int:
        """Delete a collection, named by its own name, and its aliases; how many documents it had. Raises NotFound."""

    def set_alias(self, alias: str, name: str) -> None:
        """Let the alias mean that collection from now on.

        Raises NotFound when there is no such collection, AlreadyExists when the alias is the name of one.
        """

    def delete_alias(self, alias: str) -> None:
        """Take the alias away, if it is there."""

    def upsert(self, collection: C, batch: Batch) -> Upserted:
        """Write documents that were checked against the collection's schema. Raises NotFound when it was dropped."""

    def delete(self, collection: C, chosen: Sequence[str] | Filter) -> Deleted:
        """Delete by ids, or by a filter that was checked against the schema. Raises NotFound when it was dropped."""

    def statistics(self, collection: C) -> Statistics:
        """How a collection is held."""

    def optimize(self, collection: C, is_stopped: Callable[[], bool]) -> tuple[Statistics, Statistics]:
        """Merge a collection now; how it was held before, and after. Raises PreconditionFailed where that cannot be."""

    def copy_to(self, folder: Path, is_stopped: Callable[[], bool]) -> None:
        """A data folder of its own with all there is at one moment. Raises PreconditionFailed where that cannot be."""

    def close(self) -> None:
        """Let go of what it has open. Nothing may use the engine any more."""
