"""Documents, their metadata values, and the JSON form of metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from services.core.arrays import F32
from services.retrieval.domain.schema import Kind
from services.retrieval.domain.vectors import Terms, TokenVectors

# Characters of text in one page, so that it fits into a message of the default limit, 16 MiB.
_PAGE_CHARACTERS: Final = 4 * 2**20


@dataclass(frozen=True, order=True)
class Timestamp:
    """A time in microseconds since 1970-01-01 UTC. An int64 covers every time of google.protobuf.Timestamp."""

    us: int


Scalar = str | float | bool | Timestamp
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Document:
    """A stored document. `content_hash` is the caller's, or empty."""

    document_id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    content_hash: str = ""


@dataclass(frozen=True)
class Batch:
    """N documents with their vectors. Each sequence follows the order of the schema's fields of its kind."""

    documents: Sequence[Document]
    dense: Sequence[F32] = ()
    """float32[N, D] per dense field."""
    sparse: Sequence[Terms] = ()
    multi_vector: Sequence[TokenVectors] = ()


def kind_of(value: Value) -> Kind:
    """Return the type of a value."""
    if isinstance(value, str):
        return Kind.STRING
    if isinstance(value, bool):
        return Kind.BOOL
    if isinstance(value, Timestamp):
        return Kind.TIMESTAMP
    return Kind.LIST if isinstance(value, tuple) else Kind.NUMBER


def to_json(metadata: Mapping[str, Value]) -> str:
    """Return metadata as JSON. A timestamp becomes {"us": microseconds}."""
    return json.dumps({name: to_plain(value) for name, value in metadata.items()}, ensure_ascii=False)


def from_json(stored: str) -> dict[str, Value]:
    """Return the metadata that `to_json` wrote."""
    return {name: from_plain(plain) for name, plain in json.loads(stored).items()}


def to_plain(value: Value) -> Any:
    """Return a value of JSON's types. A timestamp becomes {"us": microseconds}."""
    if isinstance(value, Timestamp):
        return {"us": value.us}
    return [to_plain(element) for element in value] if isinstance(value, tuple) else value


def from_plain(plain: Any) -> Any:
    """Return the value that `to_plain` converted."""
    if isinstance(plain, dict):
        return Timestamp(plain["us"])
    return tuple(from_plain(element) for element in plain) if isinstance(plain, list) else plain


def page_length(documents: Sequence[Document]) -> int:
    """Return how many of the documents fit into one page, at least one."""
    sizes = np.cumsum([len(one.text) + len(one.title) for one in documents])
    return max(1, int(np.count_nonzero(sizes <= _PAGE_CHARACTERS)))
