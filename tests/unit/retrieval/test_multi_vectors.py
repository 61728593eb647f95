"""Token vectors: chunks cover all documents in order, and scores equal a direct computation of MaxSim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.domain.schema import TokenType
from services.retrieval.domain.vectors import TokenVectors
from services.retrieval.embedded.index.multi_vectors import MultiVectors

COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def vectors_of(counts: list[int], stored: TokenType = TokenType.F16, dimensions: int = 3) -> MultiVectors:
    tokens = np.random.default_rng(0).normal(size=(sum(counts), dimensions)).astype(np.float32)
    return MultiVectors(TokenVectors.quantize(tokens, np.array(counts, dtype=np.int64), stored))


@given(COUNTS, st.sampled_from(TokenType), st.data())
def test_scores_equal_max_sim(counts: list[int], stored: TokenType, data: st.DataObject) -> None:
    vectors = vectors_of(counts, stored)
    query = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    positions = data.draw(st.lists(st.sampled_from(range(len(counts)))))
    found = vectors.scores(query, np.array(positions, dtype=np.int64))
    starts = vectors.tokens.starts
    for position, score in zip(positions, found, strict=True):
        tokens = vectors.tokens.floats[starts[position] : starts[position + 1]].astype(np.float64)
        products = query.astype(np.float64) @ tokens.T
        assert score == (pytest.approx(products.max(axis=1).sum(), rel=1e-5) if len(tokens) else -np.inf)


@given(COUNTS, COUNTS, st.sampled_from(TokenType))
def test_concatenate_and_take_are_inverse(first: list[int], second: list[int], stored: TokenType) -> None:
    parts = [vectors_of(first, stored), vectors_of(second, stored)]
    joined = MultiVectors.concatenate(parts)
    assert joined.counts.tolist() == first + second
    for part, start in zip(parts, (0, len(first)), strict=True):
        taken = joined.take(np.arange(start, start + len(part.counts), dtype=np.int64)).tokens
        np.testing.assert_array_equal(taken.floats, part.tokens.floats)
        np.testing.assert_array_equal(taken.starts, part.tokens.starts)


def test_chunks_cover_all_positions_within_64_mib() -> None:
    counts = np.full(6000, 30, dtype=np.int64)
    vectors = MultiVectors(TokenVectors.of(np.zeros((counts.sum(), 64), dtype=np.float16), counts))
    positions = np.arange(0, 6000, 2, dtype=np.int64)
    chunks = vectors.split(positions, query_tokens=8)
    np.testing.assert_array_equal(np.concatenate(chunks), positions)
    assert len(chunks) == 8 * 3000 * 30 * (64 + 8) // 2**26 + 1
