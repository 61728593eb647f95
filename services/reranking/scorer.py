"""Scores documents against a query: by a cross-encoder, or by late interaction.

The query is tokenised once for all its documents, and for late interaction encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.core.late_interaction import mean_maxsim
from services.model.engine import Schedule
from services.model.loading import Model
from services.model.tokenizer import Input, TooLong, Truncation
from services.rpc.validation import Violations, validating


@dataclass(frozen=True)
class Question:
    """What to score, and how."""

    query: str
    documents: Sequence[str]
    truncation: Truncation
    raw_scores: bool
    """Logits as they are, instead of probabilities."""


@dataclass(frozen=True)
class Scores:
    """What the model made of N documents, in their order."""

    inputs: Sequence[Input]
    """What the model was given for each document."""
    relevance: NDArray[np.float32]
    """[N], higher is more relevant."""
    labels: NDArray[np.float32] | None
    """[N, L] for a cross-encoder with several labels."""


async def score(model: Model, question: Question, schedule: Schedule) -> Scores:
    """The scores of each document.

    Raises InvalidRequest when an input is over the model's limit and truncation is refused, and what Engine.run raises.
    """
    query_ids, *document_ids = await model.tokenize([question.query, *question.documents])
    if model.bundle.manifest.task == "cross_encoder":
        return await _by_cross_encoder(model, question, query_ids, document_ids, schedule)
    return await _by_late_interaction(model, question, query_ids, document_ids, schedule)


async def _by_cross_encoder(
    model: Model,
    question: Question,
    query_ids: Sequence[int],
    document_ids: Sequence[Sequence[int]],
    schedule: Schedule,
) -> Scores:
    inputs: list[Input] = []
    with validating() as violations:
        for position, ids in enumerate(document_ids):
            try:
                inputs.append(model.tokenizer.pair(query_ids, ids, question.truncation))
            except TooLong as error:
                _too_long(violations, f"documents[{position}]", error)
    outputs = await model.engine.run(inputs, ["logits"], schedule)
    logits = np.stack([output["logits"] for output in outputs])
    scores = logits if question.raw_scores else probabilities(logits)
    several = logits.shape[1] > 1
    return Scores(inputs, scores[:, model.bundle.manifest.relevant_label], scores if several else None)


async def _by_late_interaction(
    model: Model,
    question: Question,
    query_ids: Sequence[int],
    document_ids: Sequence[Sequence[int]],
    schedule: Schedule,
) -> Scores:
    inputs: list[Input] = []
    with validating() as violations:
        for position, ids in enumerate([query_ids, *document_ids]):
            try:
                inputs.append(model.tokenizer.single(ids, question.truncation))
            except TooLong as error:
                _too_long(violations, f"documents[{position - 1}]" if position else "query", error)
    outputs = await model.engine.run(inputs, ["multi_vector"], schedule)
    before, after = model.tokenizer.special_count
    query, *documents = (output["multi_vector"][before : len(output["multi_vector"]) - after] for output in outputs)
    return Scores(inputs[1:], mean_maxsim(query, documents), None)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sigmoid of [N, 1] logits, softmax over the labels of [N, L]."""
    if logits.shape[1] == 1:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def _too_long(violations: Violations, field: str, error: TooLong) -> None:
    violations.add(field, str(error), expected_max=error.limit, given=error.given)
