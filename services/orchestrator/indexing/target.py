"""The collection that an index stream writes to, with the embedding model of each of its vector fields.

Rule: vectors of a model go only into fields that were created for that model, identified by its digest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import AlreadyExists, NotFound, PreconditionFailed

from services.orchestrator.chunks import FIELDS as CHUNK_FIELDS
from services.orchestrator.chunks import Chunking, is_chunked
from services.orchestrator.downstream.schemas import (
    Collection,
    EmbeddingModel,
    Windows,
    describe_windows,
    kinds_of,
    metadata_types,
    schema_for,
    vector_fields,
    windows_of,
)
from services.orchestrator.downstream.services import Services
from services.orchestrator.downstream.vectors import FieldKind, Kind
from services.orchestrator.indexing.messages import StreamHeader
from services.rpc.deadline import Deadline
from services.rpc.validation import validating


@dataclass(frozen=True)
class Field:
    """A vector field of a collection, with its model."""

    name: str
    kind: Kind
    model: str
    digest: str


@dataclass(frozen=True)
class Target:
    """A collection that is ready to be written to."""

    collection: str
    fields: tuple[Field, ...]
    chunking: Chunking | None
    """How documents are cut into chunks; None stores them whole."""
    counting_model: str
    """Name of the model that counts the tokens of chunks."""
    added_tokens: int
    """Tokens that this model adds to every chunk."""
    windows: Windows | None
    """The windows in which texts over a model's limit are embedded; None truncates them."""

    @property
    def fingerprint(self) -> tuple[str, ...]:
        """What stored documents depend on besides their content: the models of the fields, chunking and windows."""
        chunks = () if self.chunking is None else (f"chunks {self.chunking.tokens} {self.chunking.overlap}",)
        windows = () if self.windows is None else (describe_windows(self.windows),)
        return (*(field.digest for field in self.fields), *chunks, *windows)

    @property
    def encodings(self) -> dict[str, tuple[Kind, ...]]:
        """The kinds of vectors that the fields need from each model."""
        kinds: dict[str, dict[Kind, None]] = {}
        for field in self.fields:
            kinds.setdefault(field.model, {})[field.kind] = None
        return {model: tuple(needed) for model, needed in kinds.items()}


async def open_target(
    services: Services, header: StreamHeader, *, model: str, kinds: Sequence[FieldKind], deadline: Deadline
) -> Target:
    """Return the target of a stream. Creates the collection if the header asks for it and it does not exist.

    model  name of the embedding model for new collections and for fields that accept any; may be empty if one is served
    kinds  kinds of the fields of a new collection
    Raises NotFound, AlreadyExists (other filterable fields), PreconditionFailed (no model fits, the collection holds
    whole documents instead of chunks or the reverse, or it has other windows) and InvalidRequest (chunks longer than a
    model reads, or windows that share too many tokens).
    """
    models = await services.embedding.models(deadline)
    try:
        collection = await services.retrieval.collection(header.collection, deadline)
    except NotFound:
        if not header.create:
            raise
        collection = await _create(services, header, _models_for(models, model, kinds), kinds, deadline)
    _check_filterable(collection, header)
    _check_chunked(collection, header)
    _check_windows(collection, header)
    fields = tuple(_field(*described, models, model) for described in vector_fields(collection))
    if header.chunking is None:
        return Target(header.collection, fields, None, "", 0, windows_of(collection))
    counting = fields[0].model if fields else _only_model(models, model).model.name
    _check_tokens(header.chunking, [one for one in models if one.model.name in {counting, *(f.model for f in fields)}])
    added = await _count_added(services, counting, deadline)
    return Target(header.collection, fields, header.chunking, counting, added, windows_of(collection))


async def _create(
    services: Services,
    header: StreamHeader,
    models: Mapping[FieldKind, EmbeddingModel],
    kinds: Sequence[FieldKind],
    deadline: Deadline,
) -> Collection:
    """Return the new collection of a stream.

    models  the model of each kind of vectors
    Raises InvalidRequest if a model cannot read such windows, and PreconditionFailed if retrieval cannot store them.
    """
    for kind, model in models.items() if header.windows else ():
        assert kind != "text"
        # The service knows how many tokens a window holds, so a short text finds out whether the windows are valid.
        await services.embedding.embed_documents(
            ["a"], model=model.model.name, kinds=[kind], windows=header.windows, deadline=deadline
        )
    filterable = {**header.filterable, **(CHUNK_FIELDS if header.chunking else {})}
    schema = schema_for(models, kinds, filterable, header.windows)
    collection = await services.retrieval.create(header.collection, schema, deadline)
    if header.windows != windows_of(collection):
        raise PreconditionFailed(
            f"windows: the retrieval service does not store them with collection {header.collection!r}, because its "
            "version is older; upgrade it, drop the collection and try again",
            reason=ErrorReason.ERROR_REASON_COLLECTION_MISMATCH,
        )
    return collection


async def _count_added(services: Services, model: str, deadline: Deadline) -> int:
    """Return the number of tokens that the model adds to a document: special tokens and its prompt."""
    [alone] = await services.embedding.token_spans(["a"], model=model, deadline=deadline)
    [whole] = await services.embedding.token_spans(["a"], model=model, deadline=deadline, as_document=True)
    return len(whole) - len(alone)


def _only_model(models: Sequence[EmbeddingModel], name: str) -> EmbeddingModel:
    """Return the model of this name, or the only one if the name is empty. Raises PreconditionFailed."""
    fitting = [model for model in models if model.model.name == name or not name]
    if len(fitting) == 1:
        return fitting[0]
    served = ", ".join(model.model.name for model in models) or "none"
    expected = f"the model {name!r}" if name else "one model, or its name in the settings (index_model)"
    raise PreconditionFailed(
        f"expected {expected} in the embedding service, got {served}", reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH
    )


def _models_for(
    models: Sequence[EmbeddingModel], name: str, kinds: Sequence[FieldKind]
) -> dict[FieldKind, EmbeddingModel]:
    """Return the model of each kind of vectors: the named one if it produces them, otherwise the only one that does.

    Raises PreconditionFailed if there is no such model, or if there are several and none is named.
    """
    chosen: dict[FieldKind, EmbeddingModel] = {}
    for kind in kinds:
        capable = [model for model in models if kind in kinds_of(model)]
        capable = [model for model in capable if model.model.name == name] or capable
        if kind != "text" and len(capable) == 1:
            chosen[kind] = capable[0]
        elif kind != "text":
            served = ", ".join(f"{m.model.name} with {', '.join(sorted(kinds_of(m)))}" for m in models) or "none"
            expected = f"one model with {kind} vectors for new collections (index_fields)"
            raise PreconditionFailed(
                f"expected {expected}, or its name in the settings (index_model), got {served}",
                reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
            )
    return chosen


def _field(
    name: str, kind: Kind, dimensions: int, digest: str, models: Sequence[EmbeddingModel], default: str
) -> Field:
    """Return a field with the model that it was created for. Raises PreconditionFailed if that model is not served."""
    for model in [m for m in models if m.model.digest == digest] if digest else [_only_model(models, default)]:
        if kind in kinds_of(model) and dimensions in (0, model.dimensions):
            return Field(name, kind, model.model.name, model.model.digest)
    served = ", ".join(f"{m.model.name} ({m.dimensions} dimensions, {m.model.digest:.12})" for m in models) or "none"
    expected = f"{kind} vectors of " + (f"the model {digest:.12}" if digest else "any model")
    raise PreconditionFailed(
        f"field {name!r} accepts {expected} with {dimensions} dimensions; the embedding service serves {served}",
        reason=ErrorReason.ERROR_REASON_MODEL_MISMATCH,
        metadata={"expected_digest": digest, "expected_dimensions": dimensions},
    )


def _check_chunked(collection: Collection, header: StreamHeader) -> None:
    """Raise PreconditionFailed if the collection holds whole documents and the stream has chunks, or the reverse."""
    if is_chunked(collection) != (header.chunking is not None):
        holds, given = ("chunks", "none") if header.chunking is None else ("whole documents", "one")
        raise PreconditionFailed(
            f"chunking: collection {header.collection!r} holds {holds}, got {given}; choose another collection",
            reason=ErrorReason.ERROR_REASON_COLLECTION_MISMATCH,
        )


def _check_windows(collection: Collection, header: StreamHeader) -> None:
    """Raise PreconditionFailed if the stream has windows and they are not those of the collection."""
    stored = windows_of(collection)
    if header.windows is not None and header.windows != stored:
        raise PreconditionFailed(
            f"windows: collection {header.collection!r} has {describe_windows(stored)}, "
            f"got {describe_windows(header.windows)}; choose another collection",
            reason=ErrorReason.ERROR_REASON_COLLECTION_MISMATCH,
        )


def _check_tokens(chunking: Chunking, models: Sequence[EmbeddingModel]) -> None:
    """Raise InvalidRequest if a model does not read a whole chunk."""
    shortest = min(models, key=lambda model: model.max_token_count)
    with validating() as violations:
        if chunking.tokens > shortest.max_token_count:
            expected = f"expected at most {shortest.max_token_count}, the limit of {shortest.model.name}"
            violations.add("chunking.token_count", f"{expected}, got {chunking.tokens}")


def _check_filterable(collection: Collection, header: StreamHeader) -> None:
    """Raise AlreadyExists if the collection lacks a filterable field of the header."""
    existing: Mapping[str, str] = metadata_types(collection)
    for name, type_ in header.filterable.items() if header.create else ():
        if existing.get(name) != type_:
            given = existing.get(name, "none")
            message = f"collection {header.collection!r}: expected a filterable {type_} {name!r}, got {given}"
            raise AlreadyExists(f"{message}; drop it or choose another name")
