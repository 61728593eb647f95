"""What a collection holds."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Metric(StrEnum):
    """How dense vectors are compared; scores are always higher-is-better."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


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


class MetadataField(_Part):
    """A metadata field that filters may use."""

    name: str
    kind: Kind


class Schema(_Part):
    """The fields of a collection, in the order they were declared."""

    dense: tuple[DenseField, ...] = ()
    metadata: tuple[MetadataField, ...] = ()

    def dense_field(self, name: str) -> DenseField | None:
        """The dense field of that name; None when there is none."""
        return next((field for field in self.dense if field.name == name), None)

    def kind(self, name: str) -> Kind | None:
        """The type of a metadata field; None when it is not declared."""
        return next((field.kind for field in self.metadata if field.name == name), None)
