"""Laws of fixed dimensional encodings, from the paper, for any tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.core.muvera import FixedDimensionalEncoding
from services.core.similarity import maxsim, unit

F32 = NDArray[np.float32]
D = 12
SEEDS = st.integers(0, 2**64 - 1)
# Of two tokens, as the first version made them.
QUERY = [0.0, -1.71464, -3.91918, 2.36784, -0.08165, 0.0, 0.0, -1.22474]
DOCUMENT = [-1.22474, -1.22475, -4.89898, 4.08248, -0.08165, -0.08165, -0.08165, -1.71464]


def whole(seed: int, repetitions: int = 3, bits: int = 3) -> FixedDimensionalEncoding:
    """Return an encoding without projections."""
    return FixedDimensionalEncoding(D, repetitions, bits, D, 0, seed)


def drawn(seed: int, count: int) -> F32:
    return unit(np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32))


def estimates(encoding: FixedDimensionalEncoding, query: F32, tokens: F32, counts: list[int]) -> F32:
    scores: F32 = encoding.documents(tokens, np.array(counts)) @ encoding.query(query)
    return scores


@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6))
def test_an_estimate_is_at_most_maxsim(seed: int, counts: list[int], asked: int) -> None:
    query, tokens = drawn(seed, asked), drawn(seed + 1, sum(counts))
    truth = maxsim(query, tokens, np.array(counts))
    assert np.all(estimates(whole(seed), query, tokens, counts) <= truth + 1e-4)


@given(SEEDS, st.integers(1, 6))
def test_a_document_of_one_token_is_estimated_exactly(seed: int, asked: int) -> None:
    query, tokens = drawn(seed, asked), drawn(seed + 1, 4)
    expected = maxsim(query, tokens, np.ones(4, dtype=np.int64))
    np.testing.assert_allclose(estimates(whole(seed), query, tokens, [1] * 4), expected, atol=1e-4)


@given(SEEDS, st.integers(1, 8))
def test_a_document_with_the_querys_tokens_alone_in_their_partitions_is_exact(seed: int, asked: int) -> None:
    """With 256 partitions, few tokens share one. If none do, each token matches itself, and MaxSim is their number."""
    encoding = whole(seed, repetitions=1, bits=8)
    query = drawn(seed, asked)
    parts = encoding._parts_of(query)[:, 0]
    if len(set(parts.tolist())) == asked:
        assert estimates(encoding, query, query, [asked])[0] == pytest.approx(asked, abs=1e-4)


@given(SEEDS, st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_an_encoding_depends_only_on_its_own_tokens(seed: int, counts: list[int]) -> None:
    encoding = FixedDimensionalEncoding(D, 2, 3, 4, 20, seed)
    tokens = drawn(seed, sum(counts))
    together = encoding.documents(tokens, np.array(counts))
    for one, start, count in zip(together, np.cumsum(counts) - counts, counts, strict=True):
        alone = encoding.documents(tokens[start : start + count], np.array([count]))
        np.testing.assert_allclose(alone[0], one, atol=1e-5)
        assert count or not one.any()


def test_a_partition_without_tokens_takes_the_first_of_the_nearest() -> None:
    encoding = FixedDimensionalEncoding(2, 1, 1, 2, 0, 7)
    token = np.array([[1.0, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(encoding.documents(token, np.array([1])), [[1, 2, 1, 2]])
    assert sorted(encoding.query(token).tolist()) == [0, 0, 1, 2]


def test_without_hyperplanes_a_document_is_the_mean_of_its_tokens() -> None:
    encoding = FixedDimensionalEncoding(D, 1, 0, D, 0, 7)
    tokens = drawn(3, 5)
    np.testing.assert_allclose(encoding.documents(tokens, np.array([5]))[0], tokens.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(encoding.query(tokens), tokens.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize(("projected", "final"), [(4, 0), (D, 64), (4, 64)])
def test_projections_keep_the_estimate_on_average(projected: int, final: int) -> None:
    query, tokens, counts = drawn(1, 4), drawn(2, 30), [10, 1, 19]
    seeds = range(300)
    exact = np.array([estimates(whole(seed, 1, 2), query, tokens, counts) for seed in seeds])
    short = np.array(
        [estimates(FixedDimensionalEncoding(D, 1, 2, projected, final, seed), query, tokens, counts) for seed in seeds]
    )
    error = (short - exact).std(axis=0) / np.sqrt(len(seeds))
    assert np.all(np.abs((short - exact).mean(axis=0)) <= 4 * error)


def test_the_same_seed_gives_the_same_encoding_in_every_version() -> None:
    """New versions search segments of old ones, so these numbers must never change."""
    encoding = FixedDimensionalEncoding(D, 2, 2, 3, 8, 42)
    tokens = np.linspace(-1, 1.3, 2 * D, dtype=np.float32).reshape(2, D)
    assert encoding.length == 8
    assert encoding.query(tokens).tolist() == pytest.approx(QUERY, abs=1e-4)
    assert encoding.documents(tokens, np.array([2]))[0].tolist() == pytest.approx(DOCUMENT, abs=1e-4)
