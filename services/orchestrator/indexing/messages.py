"""The values that enter and leave an index stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sluice.common.v1.document_pb2 import Document

from services.orchestrator.chunks import Chunking
from services.orchestrator.downstream.schemas import Windows

Outcome = Literal["indexed", "unchanged", "failed"]

_INVALID: Final = "INVALID_REQUEST"


@dataclass(frozen=True)
class StreamHeader:
    """The first message of an index stream, without its documents."""

    collection: str
    create: bool
    """Create the collection if it does not exist."""
    filterable: Mapping[str, str]
    """Types of the metadata fields that filters can use, by name."""
    chunking: Chunking | None = None
    """How to cut documents into chunks; None stores them whole."""
    windows: Windows | None = None
    """How to embed documents over the model's limit; None leaves it to the collection."""


@dataclass(frozen=True)
class Message:
    """One message of an index stream."""

    header: StreamHeader | None
    """Present in the first message only."""
    documents: Sequence[Document]


@dataclass(frozen=True)
class Acknowledgement:
    """The outcome of one document."""

    document_id: str
    outcome: Outcome
    reason: str = ""
    """Name of the error reason of a document that failed."""
    message: str = ""
    dropped_tokens: int = 0
    """Number of tokens that a model did not read of a document that was indexed."""


def failure(document_id: str, message: str) -> Acknowledgement:
    """Return the acknowledgement of a document that is invalid."""
    return Acknowledgement(document_id, "failed", _INVALID, message)
