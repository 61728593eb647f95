"""Encodes texts: prompt, tokens, one pass of the model, vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.model.bundle import Representation
from services.model.engine import Schedule
from services.model.loading import Model
from services.model.tokenizer import Input, TooLong, Truncation
from services.rpc.validation import validating

Role = Literal["query", "document"]


@dataclass(frozen=True)
class Encoded:
    """What the model made of N texts, in their order. A representation that was not wanted is empty."""

    inputs: Sequence[Input]
    """What the model was given."""
    dense: Sequence[NDArray[np.float32]] = ()
    """N vectors [D]."""
    sparse: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]] = ()
    """N pairs of vocabulary indices [K], rising, and weights [K]."""
    multi_vector: Sequence[NDArray[np.float32]] = ()
    """N matrices [T, D], special tokens left out."""


@dataclass(frozen=True)
class Wish:
    """How texts are to be encoded."""

    role: Role
    representations: frozenset[Representation]
    truncation: Truncation


async def encode(model: Model, texts: Sequence[str], wish: Wish, schedule: Schedule) -> Encoded:
    """The wanted vectors of each text.

    Raises InvalidRequest when texts are over the model's limit and truncation is refused, and what Engine.run raises.
    """
    manifest = model.bundle.manifest
    prompt = manifest.query_prompt if wish.role == "query" else manifest.document_prompt
    token_ids = await model.tokenize([prompt + text for text in texts] if prompt else texts)
    inputs = _inputs(model, token_ids, wish.truncation)
    wanted = sorted(wish.representations)
    outputs = await model.engine.run(inputs, wanted, schedule)
    before, after = model.tokenizer.special_count
    return Encoded(
        inputs,
        dense=[output["dense"] for output in outputs if "dense" in wanted],
        sparse=[(output["sparse_indices"], output["sparse"]) for output in outputs if "sparse" in wanted],
        multi_vector=[
            output["multi_vector"][before : len(output["multi_vector"]) - after]
            for output in outputs
            if "multi_vector" in wanted
        ],
    )


def _inputs(model: Model, token_ids: Sequence[Sequence[int]], truncation: Truncation) -> list[Input]:
    """One row a text. Raises InvalidRequest naming every text that is too long."""
    inputs: list[Input] = []
    with validating() as violations:
        for position, ids in enumerate(token_ids):
            try:
                inputs.append(model.tokenizer.single(ids, truncation))
            except TooLong as error:
                violations.add(f"texts[{position}]", str(error), expected_max=error.limit, given=error.given)
    return inputs
