"""Schemas of collections: fields to search by and metadata fields."""

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

ANALYSIS_VERSION: Final = 2
"""Version of text analysis. Version 1 treats each run of letters as a word, also in languages without spaces."""


class Metric(StrEnum):
    """Similarity of dense vectors. A higher score is always better."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


class CoarseType(StrEnum):
    """Number type of the vectors in an approximate index: float32, float16, 8-bit integers, or sign bits."""

    F32 = "f32"
    F16 = "f16"
    I8 = "i8"
    B1 = "b1"


class TokenType(StrEnum):
    """Number type of stored token vectors: float16, or 8-bit integers with one scale per token."""

    F16 = "f16"
    I8 = "i8"


class Aggregation(StrEnum):
    """How the dense vectors of a text's windows are combined."""

    MEAN = "mean"
    MAX = "max"


class Kind(StrEnum):
    """Type of a metadata field."""

    STRING = "string"
    NUMBER = "number"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    LIST = "list"


class _Model(BaseModel):
    # Stored as JSON with each collection: a new field needs a default, so that older data folders still load.
    model_config = ConfigDict(frozen=True, extra="forbid")


class DenseField(_Model):
    """A field with one dense vector per document. With an empty digest it accepts vectors of any model."""

    name: str
    dimensions: int
    metric: Metric
    model_digest: str = ""
    coarse: CoarseType = CoarseType.I8
    coarse_dimensions: int = 0
    """Number of leading dimensions in the approximate index; 0 means all."""

    @property
    def has_prefix(self) -> bool:
        """Whether the approximate index holds only the leading dimensions."""
        return 0 < self.coarse_dimensions < self.dimensions


class TextField(_Model):
    """A field over the words of title and text, ranked by BM25 with parameters k1 and b."""

    name: str
    language: str
    keeps_stop_words: bool
    k1: float
    b: float
    analysis: int = Field(ANALYSIS_VERSION, exclude=True)
    """Version of the text analysis of the stored words. Engines track it; stored schemas do not contain it."""


class SparseField(_Model):
    """A field with weighted terms. With an empty digest it accepts terms of any model."""

    name: str
    model_digest: str = ""


class FdeParameters(_Model):
    """Parameters of the fixed dimensional encoding of a document's tokens; see `services.core.muvera`."""

    repetitions: int
    partition_bits: int
    projected_dimensions: int
    final_dimensions: int
    seed: int


class MultiVectorField(_Model):
    """A field with one vector per token. With an empty digest it accepts vectors of any model."""

    name: str
    dimensions: int
    model_digest: str = ""
    stored: TokenType = TokenType.F16
    encoding: FdeParameters | None = None
    """Encoding that finds candidates; None compares the tokens of all documents."""


class MetadataField(_Model):
    """A metadata field that filters can use."""

    name: str
    kind: Kind


class Windows(_Model):
    """The windows in which documents over the model's limit were embedded."""

    overlap: int
    """Tokens that a window shares with the previous one."""
    aggregation: Aggregation


SearchField = DenseField | TextField | SparseField | MultiVectorField


class Schema(_Model):
    """The fields of a collection, in declaration order, and how long documents are embedded."""

    dense: tuple[DenseField, ...] = ()
    metadata: tuple[MetadataField, ...] = ()
    text: tuple[TextField, ...] = ()
    sparse: tuple[SparseField, ...] = ()
    multi_vector: tuple[MultiVectorField, ...] = ()
    windows: Windows | None = Field(None, exclude_if=lambda value: value is None)
    """None if documents over the model's limit are truncated. Left out of stored schemas then, as in older versions."""

    @property
    def search_fields(self) -> tuple[SearchField, ...]:
        """All fields that documents can be searched by."""
        return (*self.dense, *self.text, *self.sparse, *self.multi_vector)

    def kind(self, name: str) -> Kind | None:
        """Return the type of a metadata field, or None if it is not declared."""
        return next((field.kind for field in self.metadata if field.name == name), None)
