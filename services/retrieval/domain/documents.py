"""Documents as the engine sees them, and the stored form of their metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.core.arrays import F32
from services.retrieval.domain.schema import Kind
from services.retrieval.embedded.index.multi_vectors import Tokens
from services.retrieval.embedded.index.postings import Terms


@dataclass(frozen=True, order=True)
class Timestamp:
    """A moment, in microseconds since 1970-01-01 UTC: an int64 that reaches every year a proto can say."""

    us: int


Scalar = str | float | bool | Timestamp
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Document:
    """What is stored and returned. `content_hash` is the caller's, empty when none was given."""

    document_id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    content_hash: str = ""


@dataclass(frozen=True)
class Batch:
    """N documents with their vectors, each sequence in the order of the schema's fields of its kind."""

    documents: Sequence[Document]
    dense: Sequence[F32] = ()
    """float32[N, D] each."""
    sparse: Sequence[Terms] = ()
    multi_vector: Sequence[Tokens] = ()


def kind_of(value: Value) -> Kind:
    """The type of a value."""
    if isinstance(value, str):
        return Kind.STRING
    if isinstance(value, bool):
        return Kind.BOOL
    if isinstance(value, Timestamp):
        return Kind.TIMESTAMP
    return Kind.LIST if isinstance(value, tuple) else Kind.NUMBER


def to_json(metadata: Mapping[str, Value]) -> str:
    """Metadata as stored: JSON, with a timestamp as {"us": microseconds}."""
    return json.dumps({name: to_plain(value) for name, value in metadata.items()}, ensure_ascii=False)


def from_json(stored: str) -> dict[str, Value]:
    """What `to_json` was given."""
    return {name: from_plain(plain) for name, plain in json.loads(stored).items()}


def to_plain(value: Value) -> Any:
    """A value as JSON has it, with a timestamp as {"us": microseconds}."""
    if isinstance(value, Timestamp):
        return {"us": value.us}
    return [to_plain(element) for element in value] if isinstance(value, tuple) else value


def from_plain(plain: Any) -> Any:
    """What `to_plain` was given."""
    if isinstance(plain, dict):
        return Timestamp(plain["us"])
    return tuple(from_plain(element) for element in plain) if isinstance(plain, list) else plain
