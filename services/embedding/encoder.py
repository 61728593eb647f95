"""Encoding of texts: prompt, tokens, windows, one run of the model, vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import F32
from services.core.representation import Aggregation, join_windows, prefix
from services.inference.batch_run import Output
from services.inference.bundle import Representation, Role
from services.inference.loader import Model
from services.inference.rows import rows_of
from services.inference.scheduler import Schedule
from services.inference.tokenizer import Input, Truncation

_Parts = tuple[Sequence[Input], Sequence[Output]]
"""The rows of a text, and their outputs."""


@dataclass(frozen=True)
class Windows:
    """How texts over the model's limit are read as a whole."""

    overlap: int
    """Tokens that a window shares with the previous one."""
    aggregation: Aggregation
    """Aggregation of the windows' dense vectors."""


@dataclass(frozen=True)
class EncodeOptions:
    """Options of encoding."""

    role: Role
    representations: frozenset[Representation]
    truncation: Truncation
    windows: Windows | None = None
    """Read long texts in windows; None truncates them."""
    dimensions: int = 0
    """Length of the prefix of dense vectors; 0 for the whole vectors."""


@dataclass(frozen=True)
class Embeddings:
    """The vectors of N texts, in their order. Representations that were not requested are empty."""

    inputs: Sequence[Sequence[Input]]
    """Input of the model for each text: one row, or its windows."""
    dense: Sequence[F32] = ()
    """N vectors [D]."""
    sparse: Sequence[tuple[NDArray[np.int32], F32]] = ()
    """N pairs of vocabulary indices [K], ascending, and weights [K]."""
    multi_vector: Sequence[F32] = ()
    """N matrices [T, D], without special tokens."""

    @property
    def byte_count(self) -> int:
        """Bytes of all vectors, as float32."""
        weights = [weights for _, weights in self.sparse]
        return sum(part.nbytes for part in chain(self.dense, weights, weights, self.multi_vector))


async def encode(
    model: Model,
    texts: Sequence[str],
    options: EncodeOptions,
    schedule: Schedule,
    *,
    field: str = "texts[{}]",
    check_bytes: Callable[[int], None] = lambda size: None,
) -> Embeddings:
    """Return the wanted vectors of each text.

    field        path of a text in the request, with its position
    check_bytes  raises an error if vectors of so many bytes are too large; called before they are computed

    Raises InvalidRequest if texts exceed the model's limit and truncation is refused, or if windows overlap too far,
    the errors of `check_bytes` and those of `BatchScheduler.run`.
    """
    prompt = model.bundle.manifest.prompt_of(options.role)
    token_ids = await model.tokenize([prompt + text for text in texts] if prompt else texts, schedule)

    def rows(ids: Sequence[int]) -> list[Input]:
        if options.windows:
            return model.tokenizer.windows(ids, options.windows.overlap)
        return [model.tokenizer.single(ids, options.truncation)]

    inputs = await rows_of(token_ids, rows, field.format)
    check_bytes(known_bytes(model, inputs, options))
    return await encode_rows(model, inputs, options, schedule)


def known_bytes(model: Model, inputs: Sequence[Sequence[Input]], options: EncodeOptions) -> int:
    """Return the bytes of the dense vectors and token vectors of texts, as float32, before they are computed.

    The number of weighted terms is not known before. A graph that does not state the length of its vectors counts as 0.
    """
    widths, overlap = model.session.widths, options.windows.overlap if options.windows else 0
    count = 0
    if "dense" in options.representations:
        count += len(inputs) * (options.dimensions or widths.get("dense", 0))
    if "multi_vector" in options.representations:
        tokens = sum(model.tokenizer.content_count(row) for rows in inputs for row in rows)
        count += (tokens - overlap * sum(len(rows) - 1 for rows in inputs)) * widths.get("multi_vector", 0)
    return 4 * count


async def encode_rows(
    model: Model, inputs: Sequence[Sequence[Input]], options: EncodeOptions, schedule: Schedule
) -> Embeddings:
    """Return the wanted vectors of each text, which is given as one row or as its windows.

    Raises the errors of `BatchScheduler.run`.
    """
    idf = model.query_idf if options.role == "query" and "sparse" in options.representations else None
    computed = options.representations if idf is None else options.representations - {"sparse"}
    outputs = iter(await model.scheduler.run(list(chain(*inputs)), sorted(computed), schedule) if computed else ())
    texts_outputs = [[next(outputs) for _ in rows] if computed else [] for rows in inputs]
    joined = [(rows, parts) for rows, parts in zip(inputs, texts_outputs, strict=True)]
    return Embeddings(
        inputs,
        dense=_dense(model, joined, options) if "dense" in options.representations else (),
        sparse=[_sparse(parts) if idf is None else _query_terms(rows, idf) for rows, parts in joined]
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
    """Return the terms of all windows, each with its largest weight."""
    if len(parts) == 1:
        return parts[0]["sparse_indices"], parts[0]["sparse"]
    indices, positions = np.unique(np.concatenate([part["sparse_indices"] for part in parts]), return_inverse=True)
    weights = np.zeros(len(indices), dtype=np.float32)
    np.maximum.at(weights, positions, np.concatenate([part["sparse"] for part in parts]))
    return indices.astype(np.int32), weights


def _query_terms(rows: Sequence[Input], idf: F32) -> tuple[NDArray[np.int32], F32]:
    """Return the terms of a query, each once, with the weights of the bundle's table.

    Special tokens have the weight 0.
    """
    indices = np.unique(np.fromiter(chain(*(row.ids for row in rows)), dtype=np.int32))
    indices = indices[idf[indices] > 0]
    return indices, idf[indices]


def _multi_vector(model: Model, parts: Sequence[Output], options: EncodeOptions) -> F32:
    """Return the token vectors of all windows, without special tokens and without the tokens that windows share."""
    overlap = options.windows.overlap if options.windows else 0
    tokens = [model.tokenizer.content(part["multi_vector"]) for part in parts]
    return np.concatenate([rows[overlap if position else 0 :] for position, rows in enumerate(tokens)])
