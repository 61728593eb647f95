"""Schemas of collections, and what they and models say of each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from services.orchestrator.downstream.vectors import FieldKind, Kind

EmbeddingModel = embedding_pb.EmbeddingModel
Collection = retrieval_pb.Collection

# Words of the search API for the types of metadata.
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


def kinds_of(model: EmbeddingModel) -> frozenset[Kind]:
    """The kinds of vectors that a model gives."""
    return frozenset(kind for kind, number in REPRESENTATIONS.items() if number in model.representations)


def schema_for(
    models: Mapping[FieldKind, EmbeddingModel], kinds: Sequence[FieldKind], filterable: Mapping[str, str]
) -> retrieval_pb.Schema:
    """The schema of a collection with a field of each kind, named by it, for the vectors of that kind's model only."""
    schema = retrieval_pb.Schema()
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


def fields_of(collection: Collection) -> list[tuple[str, Kind, int, str]]:
    """Name, kind, dimensions (0 when open) and model digest (empty when open) of each field that takes vectors."""
    schema = collection.schema
    return [
        *((field.name, "dense", field.dimensions, field.model_digest) for field in schema.dense_fields),
        *((field.name, "sparse", 0, field.model_digest) for field in schema.sparse_fields),
        *((field.name, "multi_vector", field.dimensions, field.model_digest) for field in schema.multi_vector_fields),
    ]


def types_of(collection: Collection) -> dict[str, str]:
    """Types of the filterable fields by name, in the words of the search API."""
    words = {number: word for word, number in _METADATA_TYPES.items()}
    return {field.name: words[field.type] for field in collection.schema.metadata_fields}


@dataclass(frozen=True)
class Vectors:
    """What a field that documents are found by takes; of words, nothing is set."""

    digest: str = ""
    """Of the model; empty when the field takes vectors of any."""
    dimensions: int = 0
    """0 when there is no such number."""

    def fit(self, model: EmbeddingModel) -> bool:
        """Whether they may be of this model."""
        return self.digest in {"", model.model.digest} and self.dimensions in {0, model.dimensions}


def searched_fields(collection: Collection) -> dict[FieldKind, dict[str, Vectors]]:
    """Return what each field that documents are found by takes, by kind and name."""
    found: dict[FieldKind, dict[str, Vectors]] = {
        "text": {field.name: Vectors() for field in collection.schema.text_fields}
    }
    for name, kind, dimensions, digest in fields_of(collection):
        found.setdefault(kind, {})[name] = Vectors(digest, dimensions)
    return found


def named(model: EmbeddingModel) -> str:
    """A model as messages name it: `all-MiniLM-L6-v2@1 (0123456789ab)`."""
    return f"{model.model.name}@{model.model.version} ({model.model.digest:.12})"
