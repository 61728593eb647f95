"""Scoring of documents against a query: by a cross-encoder, by a language model, or by late interaction.

The query is tokenized once for all its documents, and for late interaction also encoded once.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from sluice.errors import PreconditionFailed

from services.core.arrays import F32
from services.core.late_interaction import mean_maxsim
from services.inference.loader import Model
from services.inference.prompt import PromptRows
from services.inference.rows import rows_of
from services.inference.scheduler import Schedule
from services.inference.tokenizer import Ids, Input, Truncation
from services.reranking.listwise import relative, score_list


@dataclass(frozen=True)
class RerankInput:
    """A query, its documents, and how to score them."""

    query: str
    documents: Sequence[str]
    truncation: Truncation
    raw_scores: bool
    """Return logits instead of probabilities."""
    window_overlap: int | None = None
    """Read long documents in windows that share so many tokens; None truncates them."""
    field: str = "documents[{}]"
    """Path of a document in the request, with its position."""


@dataclass(frozen=True)
class QueryUsage:
    """What the model read of a query that is truncated on its own."""

    token_count: int
    """Tokens that the model read, including special tokens of the query's own row."""
    dropped: int
    """Number of truncated tokens."""


@dataclass(frozen=True)
class Scores:
    """The scores of N documents, in their order."""

    inputs: Sequence[Sequence[Input]]
    """Input of the model for each document: one row, or its windows; the document's part of a row if it shares one."""
    relevance: NDArray[np.float32]
    """[N], higher is more relevant."""
    labels: NDArray[np.float32] | None
    """[N, L] for a cross-encoder with several labels."""
    query: QueryUsage | None = None
    """None if the query is truncated together with each document; the inputs then count the tokens of both."""


async def score(model: Model, rerank_input: RerankInput, schedule: Schedule) -> Scores:
    """Return the scores of each document. A document that is read in windows gets the score of its best window.

    Raises InvalidRequest if an input exceeds the model's limit and truncation is refused, or if windows overlap too
    far, PreconditionFailed for windows of a listwise model, and the errors of `BatchScheduler.run`.
    """
    if model.prompt:
        return await _by_prompt(model, model.prompt, rerank_input, schedule)
    query_ids, *document_ids = await model.tokenize([rerank_input.query, *rerank_input.documents], schedule)
    if model.bundle.manifest.task == "cross_encoder":

        def rows(ids: Ids) -> list[Input]:
            if rerank_input.window_overlap is None:
                return [model.tokenizer.pair(query_ids, ids, rerank_input.truncation)]
            return model.tokenizer.pair_windows(query_ids, ids, rerank_input.window_overlap)

        scores = await _by_cross_encoder(model, rerank_input, document_ids, rows, schedule)
        if rerank_input.window_overlap is None:
            return scores
        read = len(model.tokenizer.query_of_windows(query_ids))
        return replace(scores, query=QueryUsage(read, len(query_ids) - read))
    return await _by_late_interaction(model, rerank_input, query_ids, document_ids, schedule)


async def classify(model: Model, text: str, truncation: Truncation, raw_scores: bool, schedule: Schedule) -> Scores:
    """Return the scores of a single text, for a cross-encoder that was trained on single texts.

    Raises PreconditionFailed for a model that reads a prompt, which has a query and a document; else as `score` does.
    """
    if model.prompt:
        raise PreconditionFailed(
            f"{model.name} reads a query and documents, not single texts: use PredictPair or Rerank"
        )
    [ids] = await model.tokenize([text], schedule)
    inputs = await rows_of([ids], lambda ids: [model.tokenizer.single(ids, truncation)], lambda _: "inputs")
    [output] = await model.scheduler.run(inputs[0], ["logits"], schedule)
    return _scores(model, inputs, output["logits"][None], raw_scores)


async def _by_prompt(model: Model, prompt: PromptRows, rerank_input: RerankInput, schedule: Schedule) -> Scores:
    texts = prompt.texts(rerank_input.query, rerank_input.documents)
    is_listwise = model.bundle.manifest.task == "listwise"
    if is_listwise and rerank_input.window_overlap is not None:
        raise PreconditionFailed(f"{model.name} reads several documents together, not in windows: leave windows unset")
    queries, documents = prompt.split(await model.tokenize(texts, schedule))
    if is_listwise:
        found = await score_list(model.scheduler, prompt, queries, documents, rerank_input.truncation, schedule)
        relevance = found.logits if rerank_input.raw_scores else relative(found.logits)
        return Scores(found.inputs, relevance, None, QueryUsage(len(found.query.ids), found.query.dropped))

    def rows(ids: Ids) -> list[Input]:
        if rerank_input.window_overlap is None:
            return [prompt.pair(queries, ids, rerank_input.truncation)]
        return prompt.pair_windows(queries, ids, rerank_input.window_overlap)

    scores = await _by_cross_encoder(model, rerank_input, documents, rows, schedule)
    if rerank_input.window_overlap is None:
        return scores
    [read, *_], [query, *_] = prompt.query_of_windows(queries), queries
    return replace(scores, query=QueryUsage(len(read), len(query) - len(read)))


async def _by_cross_encoder(
    model: Model,
    rerank_input: RerankInput,
    document_ids: Sequence[Ids],
    rows: Callable[[Ids], list[Input]],
    schedule: Schedule,
) -> Scores:
    """Return the scores of documents, which `rows` turns into the rows of a pair or of its windows."""
    inputs = await rows_of(document_ids, rows, rerank_input.field.format)
    outputs = await model.scheduler.run(list(chain(*inputs)), ["logits"], schedule)
    logits = np.stack([output["logits"] for output in outputs])
    label = model.bundle.manifest.relevant_label
    return _scores(model, inputs, logits[_best_rows(logits[:, label], inputs)], rerank_input.raw_scores)


def _scores(model: Model, inputs: Sequence[Sequence[Input]], logits: F32, raw_scores: bool) -> Scores:
    """Return the scores of logits [N, L]."""
    scores = logits if raw_scores else probabilities(logits)
    label = model.bundle.manifest.relevant_label
    return Scores(inputs, scores[:, label], scores if scores.shape[1] > 1 else None)


async def _by_late_interaction(
    model: Model, rerank_input: RerankInput, query_ids: Ids, document_ids: Sequence[Ids], schedule: Schedule
) -> Scores:
    def rows(ids: Ids) -> list[Input]:
        if rerank_input.window_overlap is None:
            return [model.tokenizer.single(ids, rerank_input.truncation)]
        return model.tokenizer.windows(ids, rerank_input.window_overlap)

    def whole(ids: Ids) -> list[Input]:
        return [model.tokenizer.single(ids, rerank_input.truncation)]

    query_rows = await rows_of([query_ids], whole, lambda _: "query")
    inputs = await rows_of(document_ids, rows, rerank_input.field.format)
    outputs = await model.scheduler.run(list(chain(*query_rows, *inputs)), ["multi_vector"], schedule)
    query, *windows = (model.tokenizer.content(output["multi_vector"]) for output in outputs)
    scores = await asyncio.to_thread(mean_maxsim, query, windows)
    [query_row] = query_rows[0]
    return Scores(inputs, scores[_best_rows(scores, inputs)], None, QueryUsage(len(query_row.ids), query_row.dropped))


def _best_rows(scores: F32, inputs: Sequence[Sequence[Input]]) -> NDArray[np.int64]:
    """Return the row of each document's best window: positions [N] in scores [sum of windows]."""
    best, start = [], 0
    for rows in inputs:
        best.append(start + int(scores[start : start + len(rows)].argmax()))
        start += len(rows)
    return np.array(best)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sigmoid of [N, 1] logits, or the softmax over the labels of [N, L]."""
    if logits.shape[1] == 1:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
