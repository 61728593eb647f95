"""Whether pipelines can work with the models that are served. Pure.

Which fields a collection has is another matter: `binding.py` tells that, search by search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from services.orchestrator.downstream.reranking import RerankingModel
from services.orchestrator.downstream.schemas import EmbeddingModel, kinds_of
from services.orchestrator.pipelines.binding import kind_of, searching
from services.orchestrator.pipelines.schema import Pipeline, Refine, Rerank, Retriever

State = Literal["unchecked", "usable", "degraded", "unusable"]


@dataclass(frozen=True)
class Check:
    """What a pipeline can do."""

    state: State
    problems: tuple[str, ...] = ()
    """What it lacks, a sentence each."""


def check(
    pipeline: Pipeline, embedders: Sequence[EmbeddingModel] | None, rerankers: Sequence[RerankingModel] | None
) -> Check:
    """Whether a pipeline can work. None stands for models that are not known."""
    needs_vectors = any(kind_of(stage) != "text" for stage in searching(pipeline))
    if (needs_vectors and embedders is None) or (pipeline.rerank and rerankers is None):
        return Check("unchecked")
    found = [*_of_vectors(pipeline, embedders or ()), *_of_rerankers(pipeline, rerankers or ())]
    problems = tuple(f"{stage.name}: {what}" for stage, what in found)
    if any(stage.on_error == "fail" for stage, _ in found):
        return Check("unusable", problems)
    retrieving = {stage.name for stage, _ in found if isinstance(stage, Retriever)}
    if retrieving == {stage.name for stage in pipeline.retrieve}:
        return Check("unusable", problems)
    return Check("degraded" if problems else "usable", problems)


def _of_vectors(pipeline: Pipeline, models: Sequence[EmbeddingModel]) -> Iterator[tuple[Retriever | Refine, str]]:
    served = ", ".join(f"{m.model.name} with {', '.join(sorted(kinds_of(m)))} vectors" for m in models) or "none"
    for stage in searching(pipeline):
        kind = kind_of(stage)
        if kind == "text":
            continue
        named = [model for model in models if stage.model in {"", model.model.name}]
        giving = [model for model in named if kind in kinds_of(model)]
        if not giving and not (stage.optional and not stage.model):
            model = f"the embedding model {stage.model!r}" if stage.model else "an embedding model"
            yield stage, f"expected {model} with {kind} vectors, served are {served}"


def _of_rerankers(pipeline: Pipeline, models: Sequence[RerankingModel]) -> Iterator[tuple[Rerank, str]]:
    names = [model.model.name for model in models]
    for stage in pipeline.rerank:
        if stage.model not in names if stage.model else len(names) != 1:
            expected = f"the reranking model {stage.model!r}" if stage.model else "one reranking model, or a name"
            yield stage, f"expected {expected}, served are {', '.join(names) or 'none'}"
