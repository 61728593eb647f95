"""Schemas of collections: their fields, and whether a model fits them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.common.v1 import model_pb2
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from services.orchestrator.downstream.vectors import FieldKind, Kind

EmbeddingModel = embedding_pb.EmbeddingModel
Collection = retrieval_pb.Collection
Windows = model_pb2.Windows

# Types of metadata, by their names in the search API.
_METADATA_TYPES: Final[dict[str, retrieval_pb.MetadataType.ValueType]] = {
    "string": retrieval_pb.METADATA_TYPE_STRING,
    "number": retrieval_pb.METADATA_TYPE_NUMBER,
    "bool": retrieval_pb.METADATA_TYPE_BOOL,
    "timestamp": retrieval_pb.METADATA_TYPE_TIMESTAMP,
    "list": retrieval_pb.METADATA_TYPE_LIST,
}
METADATA_TYPES: Final = tuple(_METADATA_TYPES)
REPRESENTATIONS: Final[dict[Kind, embedding_pb.Representation.ValueType]] = {
    "dense": embedding_pb.REPRESENTATION_DENSE,
    "sparse": embedding_pb.REPRESENTATION_SPARSE,
    "multi_vector": embedding_pb.REPRESENTATION_MULTI_VECTOR,
}


@dataclass(frozen=True)
class AcceptedVectors:
    """The vectors that a searchable field accepts. Text fields have the defaults."""

    digest: str = ""
    """Digest of the model; empty if the field accepts vectors of any model."""
    dimensions: int = 0
    """0 if the number is not fixed."""

    def fit(self, model: EmbeddingModel) -> bool:
        """Return whether the field accepts vectors of this model."""
        return self.digest in {"", model.model.digest} and self.dimensions in {0, model.dimensions}


def kinds_of(model: EmbeddingModel) -> frozenset[Kind]:
    """Return the kinds of vectors that a model produces."""
    return frozenset(kind for kind, number in REPRESENTATIONS.items() if number in model.representations)


def describe(model: EmbeddingModel) -> str:
    """Return a model as messages show it: `all-MiniLM-L6-v2@1 (0123456789ab)`."""
    return f"{model.model.name}@{model.model.version} ({model.model.digest:.12})"


def describe_windows(windows: Windows | None) -> str:
    """Return windows as messages show them: `windows with an overlap of 16 tokens, joined by MEAN`."""
    if windows is None:
        return "no windows"
    aggregation = model_pb2.WindowAggregation.Name(windows.aggregation).removeprefix("WINDOW_AGGREGATION_")
    return f"windows with an overlap of {windows.overlap_token_count} tokens, joined by {aggregation}"


def windows_of(collection: Collection) -> Windows | None:
    """Return the windows in which a collection's documents are embedded; None if long documents are truncated."""
    return collection.schema.windows if collection.schema.HasField("windows") else None


def schema_for(
    models: Mapping[FieldKind, EmbeddingModel],
    kinds: Sequence[FieldKind],
    filterable: Mapping[str, str],
    windows: Windows | None,
) -> retrieval_pb.Schema:
    """Return the schema of a new collection.

    It has one field for each kind, named like the kind, which accepts only the vectors of that kind's model.
    """
    schema = retrieval_pb.Schema(windows=windows)
    for kind in kinds:
        if kind == "text":
            schema.text_fields.add(name=kind)
            continue
        model = models[kind]
        digest = model.model.digest
        if kind == "dense":
            metric = retrieval_pb.Metric.Value(f"METRIC_{model.similarity.upper()}")
            schema.dense_fields.add(name=kind, dimensions=model.dimensions, metric=metric, model_digest=digest)
        elif kind == "sparse":
            schema.sparse_fields.add(name=kind, model_digest=digest)
        else:
            schema.multi_vector_fields.add(name=kind, dimensions=model.dimensions, model_digest=digest)
    for name, type_ in filterable.items():
        schema.metadata_fields.add(name=name, type=_METADATA_TYPES[type_])
    return schema


def vector_fields(collection: Collection) -> list[tuple[str, Kind, int, str]]:
    """Return the name, kind, dimensions and model digest of each vector field.

    Dimensions are 0 and the digest is empty if the field does not fix them.
    """
    schema = collection.schema
    return [
        *((field.name, "dense", field.dimensions, field.model_digest) for field in schema.dense_fields),
        *((field.name, "sparse", 0, field.model_digest) for field in schema.sparse_fields),
        *((field.name, "multi_vector", field.dimensions, field.model_digest) for field in schema.multi_vector_fields),
    ]


def searchable_fields(collection: Collection) -> dict[FieldKind, dict[str, AcceptedVectors]]:
    """Return what each field that can be searched accepts, by kind and name."""
    found: dict[FieldKind, dict[str, AcceptedVectors]] = {
        "text": {field.name: AcceptedVectors() for field in collection.schema.text_fields}
    }
    for name, kind, dimensions, digest in vector_fields(collection):
        found.setdefault(kind, {})[name] = AcceptedVectors(digest, dimensions)
    return found


def metadata_types(collection: Collection) -> dict[str, str]:
    """Return the types of the filterable fields by name, as the search API names them."""
    names = {number: name for name, number in _METADATA_TYPES.items()}
    return {field.name: names[field.type] for field in collection.schema.metadata_fields}
