"""Batches of documents whose contents follow from a number, and the contents of a document in a block."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.retrieval.domain.documents import Batch, Document, Value
from services.retrieval.domain.schema import (
    DenseField,
    FdeParameters,
    Kind,
    MetadataField,
    Metric,
    MultiVectorField,
    Schema,
    SparseField,
    TextField,
    TokenType,
)
from services.retrieval.domain.vectors import Terms, TokenVectors
from services.retrieval.embedded.index.columns import ListColumn, ScalarColumn, StringColumn
from services.retrieval.embedded.index.view import Block, View

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
SCHEMA = Schema(
    dense=(DenseField(name="dense", dimensions=4, metric=Metric.L2),),
    metadata=tuple(MetadataField(name=kind.value, kind=kind) for kind in (Kind.NUMBER, Kind.STRING, Kind.LIST)),
    text=(TextField(name="words", language="none", keeps_stop_words=True, k1=1.5, b=0.75),),
    sparse=(SparseField(name="sparse"),),
    multi_vector=(
        MultiVectorField(
            name="half",
            dimensions=2,
            encoding=FdeParameters(repetitions=2, partition_bits=1, projected_dimensions=2, final_dimensions=0, seed=1),
        ),
        MultiVectorField(name="small", dimensions=3, stored=TokenType.I8),
    ),
)


def batch_of(numbers: Mapping[str, int]) -> Batch:
    """Return documents by id. Equal numbers give equal contents."""
    generators = [np.random.default_rng(number) for number in numbers.values()]
    dense = np.array([rng.normal(size=4) for rng in generators], dtype=np.float32).reshape(len(numbers), 4)
    sparse = Terms.of([_terms(rng) for rng in generators])
    counts = np.array([number % 4 for number in numbers.values()], dtype=np.int64)
    tokens = [
        TokenVectors.quantize(_tokens(generators, counts, field.dimensions), counts, field.stored)
        for field in SCHEMA.multi_vector
    ]
    return Batch([_document(id_, number) for id_, number in numbers.items()], [dense], [sparse], tokens)


def _terms(rng: np.random.Generator) -> tuple[Any, Any]:
    keys = np.flatnonzero(rng.random(6) < 0.5).astype(np.int64)
    return keys, rng.random(len(keys)).astype(np.float32)


def _tokens(generators: list[np.random.Generator], counts: Any, dimensions: int) -> Any:
    tokens = [rng.normal(size=(count, dimensions)) for rng, count in zip(generators, counts, strict=True)]
    return np.concatenate([np.empty((0, dimensions)), *tokens]).astype(np.float32)


def _document(id_: str, number: int) -> Document:
    metadata: dict[str, Value] = {
        "number": float(number),
        "string": WORDS[number % 8],
        "list": (float(number % 2), "x"),
    }
    text = " ".join(WORDS[: number % 8])
    return Document(id_, WORDS[number % 3], text, metadata if number % 5 else {})


def contents(view: View) -> dict[str, Any]:
    """Return what a view holds of each live document, by id."""
    return {
        part.block.ids[position]: content_of(part.block, position)
        for part in view.parts
        for position in np.flatnonzero(part.alive).tolist()
    }


def content_of(block: Block, position: int) -> dict[str, Any]:
    """Return what a block holds of the document at a position."""
    here = np.array([position], dtype=np.int64)
    return {
        **{name: _value(column.take(here)) for name, column in block.columns.items()},
        **{name: vectors.matrix[position].tolist() for name, vectors in block.vectors.items()},
        **{name: _entries(postings.take(here)) for name, postings in block.postings.items()},
        **{name: multi.tokens.take(here).floats.tolist() for name, multi in block.multi_vectors.items()},
    }


def _value(column: Any) -> Any:
    match column:
        case ScalarColumn(values, present):
            return values[0] if present[0] else None
        case StringColumn(codes, words):
            return words[codes[0]] if codes[0] >= 0 else None
        case ListColumn(present, _, codes, elements):
            return {elements[code] for code in codes} if present[0] else None
    raise AssertionError(column)


def _entries(postings: Any) -> dict[int, float]:
    return dict(zip(postings.keys.tolist(), postings.values.tolist(), strict=True))
