"""The settings of index streams."""

from dataclasses import dataclass

from services.orchestrator.documents import DocumentLimits
from services.orchestrator.downstream.vectors import FieldKind


@dataclass(frozen=True)
class IndexLimits:
    """The settings of one index stream."""

    model: str
    """Embedding model for new collections and for fields that accept any model; may be empty if one is served."""
    kinds: tuple[FieldKind, ...]
    """Kinds of the fields of a new collection."""
    batch_documents: int
    """Most documents of a batch."""
    batch_bytes: int
    """Most bytes of a batch."""
    batch_timeout_s: float
    """Seconds for one attempt to embed or store a batch."""
    patience_s: float
    """Seconds to continue while a service accepts no document."""
    idle_timeout_s: float
    """Seconds without a document, neither arriving nor being processed."""
    document: DocumentLimits
