"""Encodes texts: prompt, tokens, windows, one pass of the model, vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import F32
from services.core.representation import Aggregation, join_windows, prefix
from services.inference.bundle import Representation, Role
from services.inference.loader import Model
from services.inference.rows import rows_of
from services.inference.scheduler import Output, Schedule
from services.inference.tokenizer import Input, Truncation


@dataclass(frozen=True)
class Windows:
    """How texts over the model's limit are read whole."""

    overlap: int
    """Tokens that a window shares with the one before."""
    aggregation: Aggregation
    """How their dense vectors become one."""


@dataclass(frozen=True)
class Wish:
    """How texts are to be encoded."""

    role: Role
    representations: frozenset[Representation]
    truncation: Truncation
    windows: Windows | None = None
    """Read longer texts in windows; None truncates them."""
    dimensions: int = 0
    """Prefix of the dense vectors; 0 means all."""


@dataclass(frozen=True)
class Encoded:
    """What the model made of N texts, in their order. A representation that was not wanted is empty."""

    inputs: Sequence[Sequence[Input]]
    """What the model was given for each text: one row, or its windows."""
    dense: Sequence[F32] = ()
    """N vectors [D]."""
    sparse: Sequence[tuple[NDArray[np.int32], F32]] = ()
    """N pairs of vocabulary indices [K], rising, and weights [K]."""
    multi_vector: Sequence[F32] = ()
    """N matrices [T, D], special tokens left out."""

    @property
    def byte_count(self) -> int:
        """Bytes of all vectors, as float32."""
        weights = [weights for _, weights in self.sparse]
        return sum(part.nbytes for part in chain(self.dense, weights, weights, self.multi_vector))


async def encode(
    model: Model, texts: Sequence[str], wish: Wish, schedule: Schedule, *, field: str = "texts[{}]"
) -> Encoded:
    """The wanted vectors of each text. `field` is the path of a text in the request, with its position.

    Raises InvalidRequest when texts are over the model's limit and truncation is refused, or when windows overlap too
    far, and what Engine.run raises.
    """
    prompt = model.bundle.manifest.prompt_of(wish.role)
    token_ids = await model.tokenize([prompt + text for text in texts] if prompt else texts, schedule)

    def rows(ids: Sequence[int]) -> list[Input]:
        if wish.windows:
            return model.tokenizer.windows(ids, wish.windows.overlap)
        return [model.tokenizer.single(ids, wish.truncation)]

    return await encode_rows(model, await rows_of(token_ids, rows, field.format), wish, schedule)


async def encode_rows(model: Model, inputs: Sequence[Sequence[Input]], wish: Wish, schedule: Schedule) -> Encoded:
    """The wanted vectors of each text, given as its rows: one, or its windows. Raises what Engine.run raises."""
    idf = model.query_idf if wish.role == "query" and "sparse" in wish.representations else None
    modelled = wish.representations if idf is None else wish.representations - {"sparse"}
    outputs = iter(await model.engine.run(list(chain(*inputs)), sorted(modelled), schedule) if modelled else ())
    texts_outputs = [[next(outputs) for _ in rows] if modelled else [] for rows in inputs]
    joined = [(rows, parts) for rows, parts in zip(inputs, texts_outputs, strict=True)]
    return Encoded(
        inputs,
        dense=_dense(model, joined, wish) if "dense" in wish.representations else (),
        sparse=[_sparse(parts) if idf is None else _weighed(rows, idf) for rows, parts in joined]
        if "sparse" in wish.representations
        else (),
        multi_vector=[_multi_vector(model, parts, wish) for _, parts in joined]
        if "multi_vector" in wish.representations
        else (),
    )


def _dense(model: Model, joined: Sequence[tuple[Sequence[Input], Sequence[Output]]], wish: Wish) -> Sequence[F32]:
    unit_length = model.bundle.manifest.similarity == "cosine"
    vectors: list[F32] = []
    for rows, parts in joined:
        if wish.windows is None or len(parts) == 1:
            vectors.append(parts[0]["dense"])
            continue
        counts = np.array([len(row.ids) for row in rows])
        windows = np.stack([part["dense"] for part in parts])
        vectors.append(join_windows(windows, counts, wish.windows.aggregation, unit_length=unit_length))
    if wish.dimensions:
        return list(prefix(np.stack(vectors), wish.dimensions, unit_length=unit_length))
    return vectors


def _sparse(parts: Sequence[Output]) -> tuple[NDArray[np.int32], F32]:
    """Terms of all windows, each with its largest weight."""
    if len(parts) == 1:
        return parts[0]["sparse_indices"], parts[0]["sparse"]
    indices, places = np.unique(np.concatenate([part["sparse_indices"] for part in parts]), return_inverse=True)
    weights = np.zeros(len(indices), dtype=np.float32)
    np.maximum.at(weights, places, np.concatenate([part["sparse"] for part in parts]))
    return indices.astype(np.int32), weights


def _weighed(rows: Sequence[Input], idf: F32) -> tuple[NDArray[np.int32], F32]:
    """Terms of a query, each once, as the bundle's table weighs them. Special tokens weigh 0 there."""
    indices = np.unique(np.fromiter(chain(*(row.ids for row in rows)), dtype=np.int32))
    indices = indices[idf[indices] > 0]
    return indices, idf[indices]


def _multi_vector(model: Model, parts: Sequence[Output], wish: Wish) -> F32:
    """Token vectors of all windows, special tokens and what windows share left out."""
    overlap = wish.windows.overlap if wish.windows else 0
    tokens = [model.tokenizer.content(part["multi_vector"]) for part in parts]
    return np.concatenate([rows[overlap if position else 0 :] for position, rows in enumerate(tokens)])
