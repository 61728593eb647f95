"""Listwise reranking by one decoding step: a language model names the most relevant of several documents.

The logit of a document's identifier is its score. Longer lists are read in windows, from the end of the list to its
start. Each window passes its best half on to the next one.
Source: Reddy et al., FIRST: Faster Improved Listwise Reranking with Single Token Decoding, 2024; windows: Sun et al.,
Is ChatGPT Good at Search?, 2023.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.core.arrays import F32
from services.inference.prompt import ListRow, PromptRows
from services.inference.scheduler import BatchScheduler, Schedule
from services.inference.tokenizer import Ids, Input, TooLong, Truncation
from services.rpc.validation import validating

# Beyond it, the sigmoid of a logit is 0 or 1 in float32.
_MOST_LOGIT: Final = 80.0


@dataclass(frozen=True)
class ListScores:
    """The scores of N documents, in their order."""

    inputs: Sequence[Sequence[Input]]
    """The ids of each document in the last window that contained it."""
    logits: F32
    """[N], all different; windows are aligned by the documents that they share."""
    query: Input
    """The ids of the query in the last window."""


async def score_list(
    scheduler: BatchScheduler,
    prompt: PromptRows,
    queries: Sequence[Ids],
    documents: Sequence[Ids],
    truncation: Truncation,
    schedule: Schedule,
) -> ListScores:
    """Return the scores of documents, given by their ids, as `PromptRows.split` returns them.

    Raises InvalidRequest if truncation is refused and needed, and the errors of `BatchScheduler.run`.
    """

    def row(positions: Sequence[int]) -> ListRow:
        with validating() as violations:
            try:
                return prompt.row(queries, [documents[position] for position in positions], truncation)
            except TooLong as error:
                description = f"{error} for the query and {len(positions)} documents together"
                violations.add("documents", description, expected_max=error.limit, given=error.given)
        raise AssertionError("a violation raises InvalidRequest")

    order, inputs, seen = list(range(len(documents))), dict[int, Input](), list[dict[int, float]]()
    windows = windows_of(len(documents), prompt.most_documents)
    scheduler.admit(schedule, [row(order[start:end]).row for start, end in windows], in_turn=True)
    for start, end in windows:
        positions = order[start:end]
        given = row(positions)
        inputs.update(zip(positions, given.documents, strict=True))
        [output] = await scheduler.run([given.row], ["logits"], schedule)
        seen.append(dict(zip(positions, output["logits"].tolist(), strict=False)))
        order[start:end] = sorted(positions, key=seen[-1].__getitem__, reverse=True)
    logits = np.empty(len(documents), np.float32)
    scores = aligned(seen)
    logits[order] = falling([scores[position] for position in order])
    return ListScores([[inputs[position]] for position in range(len(documents))], logits, given.query)


def windows_of(count: int, size: int) -> list[tuple[int, int]]:
    """Return the ranges of a list that are read in turn, from its end to its start, which overlap by half of `size`."""
    ends = [count]
    while ends[-1] > size:
        ends.append(ends[-1] - size // 2)
    return [(max(end - size, 0), end) for end in ends]


def aligned(windows: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the logit of each document in its last window, on the scale of the last window of all.

    Logits of two windows have no common zero, so those of the earlier one are shifted by the mean difference of the
    documents that both contain.
    """
    result = dict(windows[-1])
    shift = 0.0
    for earlier, later in zip(windows[-2::-1], windows[:0:-1], strict=True):
        shared = earlier.keys() & later.keys()
        shift += sum(later[document] - earlier[document] for document in shared) / len(shared)
        result = {document: logit + shift for document, logit in earlier.items()} | result
    return result


def falling(scores: Sequence[float]) -> F32:
    """Return scores in float32, lowered by as little as needed to fall from each to the next."""
    result = np.array(scores, np.float32)
    for position in range(1, len(result)):
        result[position] = min(result[position], np.nextafter(result[position - 1], np.float32(-np.inf)))
    return result


def relative(logits: F32) -> F32:
    """Return the sigmoid of the difference from the mean [N]. Logits that differ remain different, in their order."""
    order = np.argsort(-logits, kind="stable")
    centered = np.clip(logits[order].astype(np.float64) - logits.mean(dtype=np.float64), -_MOST_LOGIT, _MOST_LOGIT)
    result = np.empty_like(logits)
    result[order] = falling((1 / (1 + np.exp(-centered))).tolist())
    return result
