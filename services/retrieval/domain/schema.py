"""What a collection holds."""

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

ANALYSIS: Final = 2
"""Version of the analysis of text. 1 took each run of letters for a word, also in languages without spaces."""


class Metric(StrEnum):
    """How dense vectors are compared; scores are always higher-is-better."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


class Coarse(StrEnum):
    """How an approximate index holds vectors: float32, float16, 8-bit integers, or the signs of their numbers."""

    F32 = "f32"
    F16 = "f16"
    I8 = "i8"
    B1 = "b1"


class TokenType(StrEnum):
    """How token vectors are stored: float16, or 8-bit integers with one scale a token."""

    F16 = "f16"
    I8 = "i8"


class Kind(StrEnum):
    """Type of a metadata field."""

    STRING = "string"
    NUMBER = "number"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    LIST = "list"


class _Part(BaseModel):
    # Stored as JSON with each collection: a field added later needs a default, so that older data folders load.
    model_config = ConfigDict(frozen=True, extra="forbid")


class DenseField(_Part):
    """A field with one dense vector a document. An empty digest takes vectors of any model."""

    name: str
    dimensions: int
    metric: Metric
    model_digest: str = ""
    coarse: Coarse = Coarse.I8
    coarse_dimensions: int = 0
    """The index holds the first so many; 0 holds all."""

    @property
    def has_prefix(self) -> bool:
        """Whether the index holds fewer dimensions than there are."""
        return 0 < self.coarse_dimensions < self.dimensions


class TextField(_Part):
    """A field over the words of title and text, ranked by BM25 with these parameters."""

    name: str
    language: str
    keeps_stop_words: bool
    k1: float
    b: float
    analysis: int = Field(ANALYSIS, exclude=True)
    """Version of the analysis by which its words were stored; an engine knows it, schemas are stored without it."""


class SparseField(_Part):
    """A field with weighted terms. An empty digest takes terms of any model."""

    name: str
    model_digest: str = ""


class Encoding(_Part):
    """How the tokens of a document become one vector, as `services.core.muvera` says."""

    repetitions: int
    partition_bits: int
    projected_dimensions: int
    final_dimensions: int
    seed: int


class MultiVectorField(_Part):
    """A field with one vector a token. An empty digest takes vectors of any model."""

    name: str
    dimensions: int
    model_digest: str = ""
    stored: TokenType = TokenType.F16
    encoding: Encoding | None = None
    """By which candidates are found; None compares every token."""


class MetadataField(_Part):
    """A metadata field that filters may use."""

    name: str
    kind: Kind


SearchField = DenseField | TextField | SparseField | MultiVectorField


class Schema(_Part):
    """The fields of a collection, in the order they were declared."""

    dense: tuple[DenseField, ...] = ()
    metadata: tuple[MetadataField, ...] = ()
    text: tuple[TextField, ...] = ()
    sparse: tuple[SparseField, ...] = ()
    multi_vector: tuple[MultiVectorField, ...] = ()

    @property
    def search_fields(self) -> tuple[SearchField, ...]:
        """The fields by which documents are found."""
        return (*self.dense, *self.text, *self.sparse, *self.multi_vector)

    def kind(self, name: str) -> Kind | None:
        """The type of a metadata field; None when it is not declared."""
        return next((field.kind for field in self.metadata if field.name == name), None)
