"""Vectors that are encoded for the store and decoded again are equal."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.schema import DenseField, Metric, MultiVectorField, Schema, SparseField, TokenType
from services.retrieval.domain.vectors import Terms, TokenVectors
from services.retrieval.embedded.storage.codec import decode, encode
from tests.unit.retrieval.batches import SCHEMA, batch_of


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.documents == other.documents
    pairs: list[tuple[Any, Any]] = [*zip(one.dense, other.dense, strict=True)]
    for terms, decoded in zip(one.sparse, other.sparse, strict=True):
        pairs += [*zip(vars(terms).values(), vars(decoded).values(), strict=True)]
    for tokens, restored in zip(one.multi_vector, other.multi_vector, strict=True):
        pairs += [(tokens.vectors, restored.vectors), (tokens.starts, restored.starts)]
        assert (tokens.scales is None) == (restored.scales is None)
        if tokens.scales is not None and restored.scales is not None:
            pairs.append((tokens.scales, restored.scales))
    for given_, found in pairs:
        np.testing.assert_array_equal(given_, found)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_decode_inverts_encode(numbers: list[int]) -> None:
    batch = batch_of({f"{place}": number for place, number in enumerate(numbers)})
    assert_equal(decode(batch.documents, encode(batch), SCHEMA), batch)


@settings(max_examples=20)
@given(st.permutations(range(5)))
def test_documents_are_independent(order: list[int]) -> None:
    batch = batch_of({f"{number}": number for number in range(5)})
    blobs = [[kind[place] for place in order] for kind in encode(batch)]
    expected = batch_of({f"{number}": number for number in order})
    assert_equal(decode(expected.documents, blobs, SCHEMA), expected)


VECTORS = np.array([[1.0, -2.0]], dtype=np.float32)
ONE = np.array([1], dtype=np.int64)
CASES = [
    (Schema(dense=(DenseField(name="d", dimensions=2, metric=Metric.DOT),)), Batch([], [VECTORS]), (8, 0, 0)),
    (
        Schema(sparse=(SparseField(name="s"),)),
        Batch([], sparse=[Terms(np.array([7], dtype=np.int64), np.ones(1, dtype=np.float32), ONE)]),
        (0, 12, 0),
    ),
    (
        Schema(multi_vector=(MultiVectorField(name="m", dimensions=2),)),
        Batch([], multi_vector=[TokenVectors.quantize(VECTORS, ONE, TokenType.F16)]),
        (0, 0, 8),
    ),
    (
        Schema(multi_vector=(MultiVectorField(name="m", dimensions=2, stored=TokenType.I8),)),
        Batch([], multi_vector=[TokenVectors.quantize(VECTORS, ONE, TokenType.I8)]),
        (0, 0, 10),
    ),
]


@pytest.mark.parametrize(("schema", "batch", "sizes"), CASES, ids=["dense", "sparse", "float16", "int8"])
def test_sizes_of_the_format(schema: Schema, batch: Batch, sizes: tuple[int, int, int]) -> None:
    batch = Batch([Document("a")], batch.dense, batch.sparse, batch.multi_vector)
    blobs = encode(batch)
    assert tuple(len(one) for (one,) in blobs) == sizes
    assert_equal(decode(batch.documents, blobs, schema), batch)
