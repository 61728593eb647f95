"""A pipeline bound to a collection: which field each stage searches, and which model makes the vectors for it.

Rule: pure. Vectors are compared with those of the same model only: the digest decides, and a field says which it takes.
So a pipeline needs no model's name where the collection's field is bound to one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import PreconditionFailed, SluiceError

from services.orchestrator.chunks import is_chunked
from services.orchestrator.downstream.schemas import (
    Collection,
    EmbeddingModel,
    Vectors,
    kinds_of,
    named,
    searched_fields,
)
from services.orchestrator.downstream.vectors import FieldKind, Kind
from services.orchestrator.pipelines.schema import Pipeline, Refine, Retriever

_OPEN: Final = Vectors()


@dataclass(frozen=True)
class Bound:
    """Where one stage searches."""

    field: str = ""
    model: str = ""
    """Embedding model; empty for words, and where only the service knows which."""
    error: SluiceError | None = None
    """Why it cannot."""
    is_left_out: bool = False
    """The collection has no field for it, and the pipeline calls it optional."""
    takes: Vectors = _OPEN
    """What the field takes."""


@dataclass(frozen=True)
class Plan:
    """A pipeline and where its stages search."""

    name: str
    pipeline: Pipeline
    bound: Mapping[str, Bound]
    """By name of the stage."""
    is_chunked: bool
    """The collection holds chunks of documents."""

    @property
    def encoded(self) -> list[Retriever | Refine]:
        """The stages that need vectors of the query."""
        return [
            stage
            for stage in searching(self.pipeline)
            if kind_of(stage) != "text" and not (self.bound[stage.name].error or self.bound[stage.name].is_left_out)
        ]

    @property
    def encodings(self) -> dict[str, tuple[Kind, ...]]:
        """The kinds of vectors that its stages need of each embedding model."""
        kinds: dict[str, dict[Kind, None]] = {}
        for stage in self.encoded:
            kind = kind_of(stage)
            if kind != "text":
                kinds.setdefault(self.bound[stage.name].model, {})[kind] = None
        return {model: tuple(needed) for model, needed in kinds.items()}

    def needing(self, model: str) -> list[Retriever | Refine]:
        """The stages that need vectors of this model."""
        return [stage for stage in self.encoded if self.bound[stage.name].model == model]

    def depends_on(self, model: str) -> bool:
        """Whether a search fails without vectors of this model."""
        needing = self.needing(model)
        others = [
            stage
            for stage in self.pipeline.retrieve
            if stage not in needing and not (self.bound[stage.name].error or self.bound[stage.name].is_left_out)
        ]
        return not others or any(stage.on_error == "fail" for stage in needing)


def searching(pipeline: Pipeline) -> tuple[Retriever | Refine, ...]:
    """The stages that search fields."""
    return (*pipeline.retrieve, pipeline.refine) if pipeline.refine else pipeline.retrieve


def kind_of(stage: Retriever | Refine) -> FieldKind:
    """The kind of field that a stage searches."""
    return "multi_vector" if isinstance(stage, Refine) else stage.kind


def bind(name: str, pipeline: Pipeline, collection: Collection, models: Sequence[EmbeddingModel] | None) -> Plan:
    """The plan of a pipeline for a collection.

    models  that the embedding service serves; None when that is not known
    Raises PreconditionFailed when the collection has no field for any retriever.
    """
    fields = searched_fields(collection)
    bound = {stage.name: _bound(name, stage, collection.name, fields, models) for stage in searching(pipeline)}
    if all(bound[retriever.name].is_left_out for retriever in pipeline.retrieve):
        wanted = " or ".join(dict.fromkeys(retriever.kind for retriever in pipeline.retrieve))
        raise _missing(f"pipeline {name!r}: expected a {wanted} field", collection.name, fields)
    return Plan(name, pipeline, bound, is_chunked(collection))


def _bound(
    name: str,
    stage: Retriever | Refine,
    collection: str,
    fields: Mapping[FieldKind, Mapping[str, Vectors]],
    models: Sequence[EmbeddingModel] | None,
) -> Bound:
    kind = kind_of(stage)
    there = fields.get(kind, {})
    fitting = [stage.field] if stage.field in there else [] if stage.field else list(there)
    who = f"stage {stage.name!r} of pipeline {name!r}"
    if len(fitting) != 1:
        if stage.optional and not fitting:
            return Bound(is_left_out=True)
        wanted = f"a {kind} field {stage.field!r}" if stage.field else f"one {kind} field, or its name in the pipeline"
        return Bound(error=_missing(f"{who}: expected {wanted}", collection, fields))
    [chosen] = fitting
    if kind == "text":
        return Bound(chosen)
    takes = there[chosen]
    try:
        model = _model(who, stage, f"field {chosen!r} of {collection!r}", takes, models)
    except PreconditionFailed as error:
        return Bound(chosen, error=error)
    return Bound(chosen, model, takes=takes)


def _model(
    who: str, stage: Retriever | Refine, where: str, takes: Vectors, models: Sequence[EmbeddingModel] | None
) -> str:
    """The name of the model to embed with; as the pipeline says where more is not known. Raises PreconditionFailed."""
    if models is None:
        return stage.model
    chosen = [model for model in models if stage.model in {"", model.model.name}]
    fitting = [model for model in chosen if takes.fit(model)]
    if fitting and takes.digest:
        return fitting[0].model.name
    giving = [model for model in fitting if kind_of(stage) in kinds_of(model)]
    if not takes.digest and (giving or not chosen):
        return stage.model or (giving[0].model.name if len(giving) == 1 else "")
    bound_to = next((model for model in models if model.model.digest == takes.digest), None)
    made_for = named(bound_to) if bound_to else f"the model {takes.digest:.12}" if takes.digest else "any model"
    # Dimensions are told where they are what differs.
    sized = bound_to in chosen or not takes.digest
    given = ", ".join(f"{named(one)} with {one.dimensions} dimensions" if sized else named(one) for one in chosen)
    if stage.model:
        given = f"the pipeline names {given or repr(stage.model) + ', which is not served'}"
    else:
        given = f"served are {given or 'none'}"
    with_dimensions = f" with {takes.dimensions} dimensions" if sized else ""
    raise PreconditionFailed(
        f"{who}: {where} takes vectors of {made_for}{with_dimensions}; {given}",
        reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
        metadata={"expected_digest": takes.digest, "expected_dimensions": takes.dimensions},
    )


def _missing(expected: str, collection: str, fields: Mapping[FieldKind, Mapping[str, Vectors]]) -> PreconditionFailed:
    have = ", ".join(f"{name} ({kind})" for kind, names in fields.items() for name in names)
    return PreconditionFailed(
        f"{expected}; collection {collection!r} has {have or 'none'}",
        reason=ErrorReason.ERROR_REASON_COLLECTION_MISMATCH,
    )
