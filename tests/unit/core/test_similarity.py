"""Laws of similarities and of selecting the highest scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from services.core.selection import at_least_kth, top_k
from services.core.similarity import cosine, dot, l2, maxsim, norms, unit

RNG = np.random.default_rng(7)


def test_dot_l2_and_cosine_follow_their_formulas() -> None:
    query = RNG.standard_normal(33).astype(np.float32)
    documents = RNG.standard_normal((50, 33)).astype(np.float32)
    wide_query, wide = query.astype(np.float64), documents.astype(np.float64)
    np.testing.assert_allclose(dot(query, documents), wide @ wide_query, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(l2(query, documents), -((wide - wide_query) ** 2).sum(1), rtol=1e-6)
    expected = wide @ wide_query / np.linalg.norm(wide, axis=1) / np.linalg.norm(wide_query)
    np.testing.assert_allclose(cosine(query, documents), expected, atol=1e-6)


def test_a_score_does_not_depend_on_other_documents() -> None:
    query = RNG.standard_normal(384).astype(np.float32)
    documents = RNG.standard_normal((5000, 384)).astype(np.float32)
    documents[[17, 2047, 2048, 4999]] = documents[3]
    for similarity in (dot, cosine, l2):
        scores = similarity(query, documents)
        assert len({float(scores[i]) for i in (3, 17, 2047, 2048, 4999)}) == 1
        np.testing.assert_array_equal(scores[1234:1300], similarity(query, documents[1234:1300]))


def test_unit_vectors_have_length_one_and_zero_stays_zero() -> None:
    vectors = np.array([[3e30, 4e30], [0, 0], [1e-30, 0]], dtype=np.float32)
    assert unit(vectors).ravel().tolist() == pytest.approx([0.6, 0.8, 0, 0, 1, 0], rel=1e-6)
    assert norms(vectors).tolist() == pytest.approx([5e30, 0, 1e-30], rel=1e-6)


def best_product(vector: NDArray[np.float32], tokens: NDArray[np.float32]) -> float:
    return max((float(vector @ token) for token in tokens), default=-math.inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_maxsim_equals_a_naive_double_loop_and_no_tokens_score_minus_infinity(dtype: type[np.float32]) -> None:
    query = RNG.standard_normal((5, 8)).astype(np.float32)
    counts = np.array([0, 6, 0, 1, 3, 0])
    tokens = RNG.standard_normal((counts.sum(), 8)).astype(dtype)
    documents = np.split(tokens.astype(np.float32), np.cumsum(counts)[:-1])
    naive = np.array([sum(best_product(q, document) for q in query) for document in documents])
    np.testing.assert_allclose(maxsim(query, tokens, counts), naive, rtol=1e-5)
    assert maxsim(query, tokens[:0], counts[:1]).tolist() == [-math.inf]
    assert maxsim(query, tokens[:0], counts[:0]).tolist() == []


@given(
    arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_top_k_is_the_sorted_prefix_with_ties_by_lower_id(scores: NDArray[np.float32], k: int, random: object) -> None:
    ids = [f"{position:02}" for position in range(len(scores))]
    random.shuffle(ids)  # type: ignore[attr-defined]
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], ids[i]))[:k]
    assert top_k(scores, ids, k).tolist() == expected


@pytest.mark.parametrize(
    ("k", "slack", "expected"), [(1, 0, [1]), (2, 0, [1, 3, 4]), (1, 0.5, [1, 3, 4]), (9, 0, range(5))]
)
def test_at_least_kth_keeps_all_ties_and_what_is_within_the_slack(k: int, slack: float, expected: list[int]) -> None:
    scores = np.array([0, 3, 1, 2.5, 2.5], dtype=np.float32)
    assert at_least_kth(scores, k, slack=slack).tolist() == list(expected)
