"""Laws of similarities and of choosing the best."""

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


def test_dot_l2_and_cosine_are_what_their_formulas_say() -> None:
    query = RNG.standard_normal(33).astype(np.float32)
    documents = RNG.standard_normal((50, 33)).astype(np.float32)
    wide_query, wide = query.astype(np.float64), documents.astype(np.float64)
    np.testing.assert_allclose(dot(query, documents), wide @ wide_query, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(l2(query, documents), -((wide - wide_query) ** 2).sum(1), rtol=1e-6)
    expected = wide @ wide_query / np.linalg.norm(wide, axis=1) / np.linalg.norm(wide_query)
    np.testing.assert_allclose(cosine(query, documents), expected, atol=1e-6)


def test_a_score_does_not_depend_on_the_documents_beside_it() -> None:
    query = RNG.standard_normal(384).astype(np.float32)
    documents = RNG.standard_normal((5000, 384)).astype(np.float32)
    documents[[17, 2047, 2048, 4999]] = documents[3]
    for similarity in (dot, cosine, l2):
        scores = similarity(query, documents)
        assert len({float(scores[i]) for i in (3, 17, 2047, 2048, 4999)}) == 1
        np.testing.assert_array_equal(scores[1234:1300], similarity(query, documents[1234:1300]))


def test_unit_vectors_have_length_one_and_zero_stays_zero() -> None:
    vectors = np.array([[3e30, 4e30], [0, 0], [1e-30, 0]], dtype=np.float32)
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(norms(vectors), [5e30, 0, 1e-30], rtol=1e-6)


def best_product(vector: NDArray[np.float32], tokens: NDArray[np.float32]) -> float:
    return max((float(vector @ token) for token in tokens), default=-math.inf)


def test_maxsim_equals_a_naive_double_loop_and_padding_never_wins() -> None:
    query = RNG.standard_normal((5, 8)).astype(np.float32)
    documents = RNG.standard_normal((7, 6, 8)).astype(np.float32)
    counts = [6, 5, 4, 3, 2, 1, 0]
    mask = np.arange(6)[None, :] < np.array(counts)[:, None]
    naive: list[float] = [sum(best_product(q, documents[n, :count]) for q in query) for n, count in enumerate(counts)]
    np.testing.assert_allclose(maxsim(query, documents, mask), naive, rtol=1e-5)


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
