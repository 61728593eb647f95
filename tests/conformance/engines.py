"""The engines that the suite runs against, and their capabilities."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from sluice.common.v1 import filter_pb2 as pb_filter
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.support.retrieval import Stub, new_collection, retrieval_stub

_numbers: Final = count(1)


@dataclass(frozen=True)
class Can:
    """The capabilities of an engine."""

    sparse: bool = True
    text: bool = True
    multi_vector: bool = True
    several_dense: bool = True
    exact_by_default: bool = True
    """Exact searches of dense fields in collections with the default index."""
    ties_by_id: bool = True
    """Of equal scores at the end of a ranking, those with the lowest ids are kept."""
    documents_without_terms: bool = True
    negative_weights: bool = True
    longest_text: bool = True
    """A text of 65,536 bytes."""
    true_is_not_one: bool = True
    """A list with `true` does not contain 1."""
    bm25_parameters: bool = True
    """Scores of words follow the field's k1 and b."""
    optimize: bool = True
    """Merge a collection on request."""
    small_versions: bool = True
    """The first write makes version 1, the next 2."""


ENGINES: Final = {
    "embedded": Can(),
    "milvus-lite": Can(
        multi_vector=False,
        exact_by_default=False,
        ties_by_id=False,
        documents_without_terms=False,
        negative_weights=False,
        longest_text=False,
        true_is_not_one=False,
        bm25_parameters=False,
        optimize=False,
        small_versions=False,
    ),
    # 2.3.5: the newest that a package carries.
    "milvus": Can(
        sparse=False,
        text=False,
        multi_vector=False,
        several_dense=False,
        exact_by_default=False,
        ties_by_id=False,
        documents_without_terms=False,
        negative_weights=False,
        longest_text=False,
        optimize=False,
        small_versions=False,
    ),
}


@dataclass(frozen=True)
class Place:
    """An engine with its storage. Each test starts a service on it."""

    name: str
    can: Can
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def stub(self, **settings: Any) -> AbstractAsyncContextManager[Stub]:
        """Run a new service on the same storage, and yield a stub of it."""
        return retrieval_stub(self.folder, **self.settings, **settings)


# Named with a hyphen, which Milvus does not take in a name.
SHARED: Final = "shared-zoo"


async def empty(stub: Stub) -> None:
    """Empty the collection SHARED, with a dense field and metadata of each type. Creating one takes Milvus 3 s."""
    await stub.CreateCollection(new_collection(SHARED))
    absent = pb_filter.Filter(none_of=pb_filter.FilterList(filters=[pb_filter.Filter(exists="year")]))
    both = pb_filter.FilterList(filters=[pb_filter.Filter(exists="year"), absent])
    await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection=SHARED, filter=pb_filter.Filter(any_of=both)))


def new_name() -> str:
    """Return a name that no collection of this session has."""
    return f"zoo-{next(_numbers)}"
