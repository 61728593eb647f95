"""A pipeline bound to a collection: the field that each stage searches, and the model that embeds the query for it.

Rule: no I/O. Vectors are only compared with vectors of the same model, identified by its digest. A field states which
model it accepts, so a pipeline does not have to name one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import PreconditionFailed, SluiceError

from services.orchestrator.chunks import is_chunked
from services.orchestrator.downstream.schemas import (
    AcceptedVectors,
    Collection,
    EmbeddingModel,
    describe,
    kinds_of,
    searchable_fields,
)
from services.orchestrator.downstream.vectors import EmbeddingBatch, FieldKind, Kind
from services.orchestrator.pipelines.schema import Pipeline, Refine, Retriever

_ANY: Final = AcceptedVectors()


@dataclass(frozen=True)
class StageBinding:
    """Where one stage searches."""

    field: str = ""
    model: str = ""
    """Name of the embedding model; empty for text, and if only the embedding service can choose it."""
    error: SluiceError | None = None
    """Why the stage cannot search."""
    is_left_out: bool = False
    """The stage is optional and the collection has no field for it."""
    accepts: AcceptedVectors = _ANY
    """The vectors that the field accepts."""

    @property
    def can_search(self) -> bool:
        """Whether the stage can search."""
        return not (self.error or self.is_left_out)

    def check(self, vectors: EmbeddingBatch, kind: Kind) -> None:
        """Raise PreconditionFailed if the field does not accept the vectors of a query."""
        given, accepts = vectors.dimensions(kind), self.accepts
        if accepts.digest in {"", vectors.model.digest} and accepts.dimensions in {0, given}:
            return
        expected = f"vectors of the model {accepts.digest:.12}" if accepts.digest else "vectors"
        model = f"{vectors.model.name}@{vectors.model.version} ({vectors.model.digest:.12})"
        raise PreconditionFailed(
            f"field {self.field!r} accepts {expected} with {accepts.dimensions} dimensions; "
            f"the embedding service returned vectors of {model} with {given} dimensions",
            reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
            metadata={"expected_digest": accepts.digest, "given_digest": vectors.model.digest},
        )


@dataclass(frozen=True)
class Encoding:
    """What one embedding model computes for a search."""

    kinds: tuple[Kind, ...]
    """The kinds of vectors that the stages need."""
    stages: tuple[Retriever | Refine, ...]
    """The stages that need them."""
    is_required: bool
    """The search fails without them."""


@dataclass(frozen=True)
class Plan:
    """A pipeline with the bindings of its stages to a collection."""

    name: str
    """Name of the pipeline."""
    pipeline: Pipeline
    bindings: Mapping[str, StageBinding]
    """The binding of each stage that searches a field, by its name."""
    encodings: Mapping[str, Encoding]
    """The vectors of the query that the stages need, by the name of the embedding model."""
    is_chunked: bool
    """Whether the collection holds chunks of documents."""


def field_stages(pipeline: Pipeline) -> tuple[Retriever | Refine, ...]:
    """Return the stages that search a field of the collection."""
    return (*pipeline.retrieve, pipeline.refine) if pipeline.refine else pipeline.retrieve


def field_kind(stage: Retriever | Refine) -> FieldKind:
    """Return the kind of field that a stage searches."""
    return "multi_vector" if isinstance(stage, Refine) else stage.kind


def bind(name: str, pipeline: Pipeline, collection: Collection, models: Sequence[EmbeddingModel] | None) -> Plan:
    """Return the plan of a pipeline for a collection.

    models  the models that the embedding service serves; None if they are unknown
    Raises PreconditionFailed if the collection has no field for any retriever.
    """
    fields = searchable_fields(collection)
    bindings = {
        stage.name: _bind_stage(name, stage, collection.name, fields, models) for stage in field_stages(pipeline)
    }
    if all(bindings[retriever.name].is_left_out for retriever in pipeline.retrieve):
        kinds = " or ".join(dict.fromkeys(retriever.kind for retriever in pipeline.retrieve))
        raise _no_field(f"pipeline {name!r}: expected a {kinds} field", collection.name, fields)
    return Plan(name, pipeline, bindings, _encodings(pipeline, bindings), is_chunked(collection))


def _encodings(pipeline: Pipeline, bindings: Mapping[str, StageBinding]) -> dict[str, Encoding]:
    """Return what each embedding model computes, by its name."""
    searching = [stage for stage in field_stages(pipeline) if bindings[stage.name].can_search]
    kinds: dict[str, dict[Kind, None]] = {}
    needing: dict[str, list[Retriever | Refine]] = {}
    for stage in searching:
        model, kind = bindings[stage.name].model, field_kind(stage)
        if kind != "text":
            kinds.setdefault(model, {})[kind] = None
            needing.setdefault(model, []).append(stage)
    return {
        model: Encoding(tuple(kinds[model]), tuple(stages), _is_required(stages, searching))
        for model, stages in needing.items()
    }


def _is_required(needing: Sequence[Retriever | Refine], searching: Sequence[Retriever | Refine]) -> bool:
    """Return whether a search fails without the vectors that these stages need."""
    other_retrievers = [stage for stage in searching if isinstance(stage, Retriever) and stage not in needing]
    return not other_retrievers or any(stage.on_error == "fail" for stage in needing)


def _bind_stage(
    name: str,
    stage: Retriever | Refine,
    collection: str,
    fields: Mapping[FieldKind, Mapping[str, AcceptedVectors]],
    models: Sequence[EmbeddingModel] | None,
) -> StageBinding:
    """Return the binding of a stage; with the error if the collection or the models do not fit."""
    kind = field_kind(stage)
    existing = fields.get(kind, {})
    fitting = [stage.field] if stage.field in existing else [] if stage.field else list(existing)
    subject = f"stage {stage.name!r} of pipeline {name!r}"
    if len(fitting) != 1:
        if stage.optional and not fitting:
            return StageBinding(is_left_out=True)
        expected = (
            f"a {kind} field {stage.field!r}" if stage.field else f"one {kind} field, or its name in the pipeline"
        )
        return StageBinding(error=_no_field(f"{subject}: expected {expected}", collection, fields))
    [field] = fitting
    if kind == "text":
        return StageBinding(field)
    accepts = existing[field]
    try:
        model = _model(f"{subject}: field {field!r} of {collection!r}", stage, accepts, models)
    except PreconditionFailed as error:
        return StageBinding(field, error=error)
    return StageBinding(field, model, accepts=accepts)


def _model(
    subject: str, stage: Retriever | Refine, accepts: AcceptedVectors, models: Sequence[EmbeddingModel] | None
) -> str:
    """Return the name of the model to embed with; the one that the pipeline names if the models are unknown.

    Raises PreconditionFailed if no served model fits the field and the pipeline.
    """
    if models is None:
        return stage.model
    named = [model for model in models if stage.model in {"", model.model.name}]
    fitting = [model for model in named if accepts.fit(model)]
    if fitting and accepts.digest:
        return fitting[0].model.name
    capable = [model for model in fitting if field_kind(stage) in kinds_of(model)]
    if not accepts.digest and (capable or not named):
        return stage.model or (capable[0].model.name if len(capable) == 1 else "")
    raise _model_mismatch(subject, stage.model, named, accepts, models)


def _model_mismatch(
    subject: str,
    model: str,
    named: Sequence[EmbeddingModel],
    accepts: AcceptedVectors,
    models: Sequence[EmbeddingModel],
) -> PreconditionFailed:
    """Return the error of a field that accepts none of the models that the pipeline allows."""
    bound_to = next((one for one in models if one.model.digest == accepts.digest), None)
    expected = describe(bound_to) if bound_to else f"the model {accepts.digest:.12}" if accepts.digest else "any model"
    # The dimensions are part of the message only if they are the difference.
    is_about_size = bound_to in named or not accepts.digest
    given = ", ".join(
        f"{describe(one)} with {one.dimensions} dimensions" if is_about_size else describe(one) for one in named
    )
    if model:
        given = f"the pipeline names {given or repr(model) + ', which is not served'}"
    else:
        given = f"served are {given or 'none'}"
    size = f" with {accepts.dimensions} dimensions" if is_about_size else ""
    return PreconditionFailed(
        f"{subject} takes vectors of {expected}{size}; {given}",
        reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
        metadata={"expected_digest": accepts.digest, "expected_dimensions": accepts.dimensions},
    )


def _no_field(
    expected: str, collection: str, fields: Mapping[FieldKind, Mapping[str, AcceptedVectors]]
) -> PreconditionFailed:
    existing = ", ".join(f"{name} ({kind})" for kind, names in fields.items() for name in names)
    return PreconditionFailed(
        f"{expected}; collection {collection!r} has {existing or 'none'}",
        reason=ErrorReason.ERROR_REASON_COLLECTION_MISMATCH,
    )
