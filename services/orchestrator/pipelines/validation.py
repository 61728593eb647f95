"""Checks of pipelines against the models that are served, and the log of what changes.

Whether a collection has the fields is not checked here: `binding.py` decides that for each search.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sluice.reranking.v1.reranking_service_pb2 import SCORING_LATE_INTERACTION, SCORING_LISTWISE

from services.orchestrator.downstream.reranking import RerankingModel
from services.orchestrator.downstream.schemas import EmbeddingModel, kinds_of
from services.orchestrator.pipelines.binding import field_kind, field_stages
from services.orchestrator.pipelines.schema import CandidateWindows, Pipeline, Refine, Rerank, Retriever

logger = logging.getLogger(__name__)

# Special tokens around a query and a document: at most four, as in RoBERTa.
_MAX_SPECIAL_TOKENS: Final = 4

State = Literal["unchecked", "usable", "degraded", "unusable"]


@dataclass(frozen=True)
class Check:
    """Whether a pipeline can work with the models that are served."""

    state: State
    problems: tuple[str, ...] = ()
    """What it lacks, one sentence each."""


_USABLE: Final = Check("usable")


def check(
    pipeline: Pipeline, embedders: Sequence[EmbeddingModel] | None, rerankers: Sequence[RerankingModel] | None
) -> Check:
    """Return whether a pipeline can work. None means that the models are unknown."""
    needs_vectors = any(field_kind(stage) != "text" for stage in field_stages(pipeline))
    if (needs_vectors and embedders is None) or (pipeline.rerank and rerankers is None):
        return Check("unchecked")
    found = [*_embedding_problems(pipeline, embedders or ()), *_reranking_problems(pipeline, rerankers or ())]
    problems = tuple(f"{stage.name}: {problem}" for stage, problem in found)
    if any(stage.on_error == "fail" for stage, _ in found):
        return Check("unusable", problems)
    broken = {stage.name for stage, _ in found if isinstance(stage, Retriever)}
    if broken == {stage.name for stage in pipeline.retrieve}:
        return Check("unusable", problems)
    return Check("degraded", problems) if problems else _USABLE


def log_changes(before: Mapping[str, Check], now: Mapping[str, Check]) -> Mapping[str, Check]:
    """Log each pipeline whose check changed, and return what is logged by now.

    A pipeline that was never logged counts as usable. One that cannot be checked keeps its last check.
    """
    changed = {
        name: found for name, found in now.items() if found != before.get(name, _USABLE) and found.state != "unchecked"
    }
    for name, found in changed.items():
        fields = {"pipeline": name, "state": found.state, "problems": list(found.problems)}
        logger.log(logging.WARNING if found.problems else logging.INFO, "pipeline checked", extra=fields)
    return {**before, **changed}


def _embedding_problems(
    pipeline: Pipeline, models: Sequence[EmbeddingModel]
) -> Iterator[tuple[Retriever | Refine, str]]:
    """Yield the stages without an embedding model for their kind of vectors."""
    served = ", ".join(f"{m.model.name} with {', '.join(sorted(kinds_of(m)))} vectors" for m in models) or "none"
    for stage in field_stages(pipeline):
        kind = field_kind(stage)
        if kind == "text":
            continue
        named = [model for model in models if stage.model in {"", model.model.name}]
        capable = [model for model in named if kind in kinds_of(model)]
        if not capable and not (stage.optional and not stage.model):
            model = f"the embedding model {stage.model!r}" if stage.model else "an embedding model"
            yield stage, f"expected {model} with {kind} vectors, served are {served}"


def _reranking_problems(pipeline: Pipeline, models: Sequence[RerankingModel]) -> Iterator[tuple[Rerank, str]]:
    """Yield the rerankers whose model is not served, is not named while several are served, or has smaller windows."""
    names = [model.model.name for model in models]
    for stage in pipeline.rerank:
        if stage.model not in names if stage.model else len(names) != 1:
            expected = f"the reranking model {stage.model!r}" if stage.model else "one reranking model, or a name"
            yield stage, f"expected {expected}, served are {', '.join(names) or 'none'}"
            continue
        if stage.windows:
            model = next(model for model in models if stage.model in {"", model.model.name})
            yield from ((stage, problem) for problem in _window_problems(stage.windows, model))


def _window_problems(windows: CandidateWindows, model: RerankingModel) -> Iterator[str]:
    """Yield why a model cannot read candidates in these windows."""
    if model.scoring == SCORING_LISTWISE:
        yield f"expected no windows, because {model.model.name} reads many candidates together, got some"
    elif windows.overlap > (most := _max_overlap(model)):
        yield f"expected windows with an overlap of up to {most} tokens for {model.model.name}, got {windows.overlap}"


def _max_overlap(model: RerankingModel) -> int:
    """Return the largest overlap of windows that a model accepts with any query.

    A window may share half of its tokens. A cross-encoder reads the query with each window, in up to half of the input.
    """
    tokens = model.max_token_count - _MAX_SPECIAL_TOKENS
    return max(0, tokens // 2 if model.scoring == SCORING_LATE_INTERACTION else tokens // 4)
