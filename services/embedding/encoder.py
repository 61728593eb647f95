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

_Parts = tuple[Sequence[Input], Sequence[Output]]
"""The rows of a text and their outputs."""


@dataclass(frozen=True)
class Windows:
    """How texts over the model's limit are read whole."""

    overlap: int
    """Tokens that a window shares with the one before."""
    aggregation: Aggregation
    """How their dense vectors become one."""


@dataclass(frozen=True)
class EncodeOptions:
    """How texts are to be encoded."""

    role: Role
    representations: frozenset[Representation]
    truncation: Truncation
    windows: Windows | None = None
    """Read longer texts in windows; None truncates them."""
    dimensions: int = 0
    """Prefix of the dense vectors; 0 means all."""


@dataclass(frozen=True)
class Embeddings:
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
    model: Model, texts: Sequence[str], options: EncodeOptions, schedule: Schedule, *, field: str = "texts[{}]"
) -> Embeddings:
    """The wanted vectors of each text. `field` is the path of a text in the request, with its position.

    Raises InvalidRequest when texts are over the model's limit and truncation is refused, or when windows overlap too
    far, and what BatchScheduler.run raises.
    """
    prompt = model.bundle.manifest.prompt_of(options.role)
    token_ids = await model.tokenize([prompt + text for text in texts] if prompt else texts, schedule)

    def rows(ids: Sequence[int]) -> list[Input]:
        if options.windows:
            return model.tokenizer.windows(ids, options.windows.overlap)
        return [model.tokenizer.single(ids, options.truncation)]

    return await encode_rows(model, await rows_of(token_ids, rows, field.format), options, schedule)


async def encode_rows(
    model: Model, inputs: Sequence[Sequence[Input]], options: EncodeOptions, schedule: Schedule
) -> Embeddings:
    """Return the wanted vectors of each text, which is given as one row or as its windows.

    Raises what `BatchScheduler.run` raises.
    """
    idf = model.query_idf if options.role == "query" and "sparse" in options.representations else None
    modelled = options.representations if idf is None else options.representations - {"sparse"}
    outputs = iter(await model.scheduler.run(list(chain(*inputs)), sorted(modelled), schedule) if modelled else ())
    texts_outputs = [[next(outputs) for _ in rows] if modelled else [] for rows in inputs]
    joined = [(rows, parts) for rows, parts in zip(inputs, texts_outputs, strict=True)]
    return Embeddings(
        inputs,
        dense=_dense(model, joined, options) if "dense" in options.representations else (),
        sparse=[_sparse(parts) if idf is None else _weighed(rows, idf) for rows, parts in joined]
        if "sparse" in options.representations
        else (),
        multi_vector=[_multi_vector(model, parts, options) for _, parts in joined]
        if "multi_vector" in options.representations
        else (),
    )


def _dense(model: Model, joined: Sequence[_Parts], options: EncodeOptions) -> Sequence[F32]:
    unit_length = model.bundle.manifest.similarity == "cosine"
    vectors: list[F32] = []
    for rows, parts in joined:
        if options.windows is None or len(parts) == 1:
            vectors.append(parts[0]["dense"])
            continue
        counts = np.array([len(row.ids) for row in rows])
        windows = np.stack([part["dense"] for part in parts])
        vectors.append(join_windows(windows, counts, options.windows.aggregation, unit_length=unit_length))
    if options.dimensions:
        return list(prefix(np.stack(vectors), options.dimensions, unit_length=unit_length))
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


def _multi_vector(model: Model, parts: Sequence[Output], options: EncodeOptions) -> F32:
    """Token vectors of all windows, special tokens and what windows share left out."""
    overlap = options.windows.overlap if options.windows else 0
    tokens = [model.tokenizer.content(part["multi_vector"]) for part in parts]
    return np.concatenate([rows[overlap if position else 0 :] for position, rows in enumerate(tokens)])
