"""Windows of a list, and the scores of documents that different windows scored."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reranking.listwise import aligned, falling, relative, windows_of

LOGITS = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(0, 1)]),
        (20, [(0, 20)]),
        (21, [(1, 21), (0, 11)]),
        (40, [(20, 40), (10, 30), (0, 20)]),
        (45, [(25, 45), (15, 35), (5, 25), (0, 15)]),
    ],
)
def test_windows_run_from_the_end_to_the_start(count: int, expected: list[tuple[int, int]]) -> None:
    assert windows_of(count, 20) == expected


@given(st.integers(1, 300), st.integers(2, 20))
def test_windows_cover_the_list_and_each_shares_documents_with_the_next(count: int, size: int) -> None:
    windows = windows_of(count, size)
    assert {position for start, end in windows for position in range(start, end)} == set(range(count))
    assert all(1 <= end - start <= size for start, end in windows)
    assert all(later[1] > earlier[0] for earlier, later in itertools.pairwise(windows))


def test_logits_of_an_earlier_window_are_shifted_to_the_scale_of_the_last() -> None:
    first, last = {3: 1.0, 2: 5.0, 4: 4.0}, {0: 20.0, 2: 15.0, 4: 14.0, 1: 2.0}
    assert aligned([first, last]) == {0: 20.0, 2: 15.0, 4: 14.0, 1: 2.0, 3: 11.0}


def test_shifts_add_up_over_windows() -> None:
    assert aligned([{0: 0.0, 1: 1.0}, {1: 11.0, 2: 12.0}, {2: 112.0, 3: 113.0}]) == {
        0: 110.0,
        1: 111.0,
        2: 112.0,
        3: 113.0,
    }


@given(LOGITS)
def test_scores_fall_and_are_lowered_only_where_they_do_not(scores: list[float]) -> None:
    found = falling(scores)
    assert all(a > b for a, b in itertools.pairwise(found.tolist()))
    lowest = np.minimum.accumulate(np.array(scores, np.float32))
    np.testing.assert_allclose(found, lowest, rtol=1e-5, atol=1e-5)


@given(LOGITS.map(lambda logits: sorted(set(logits), reverse=True)).flatmap(st.permutations))
def test_relative_scores_keep_the_order_and_lie_between_0_and_1(logits: list[float]) -> None:
    given_, found = np.array(logits, np.float32), relative(np.array(logits, np.float32))
    assert np.argsort(-given_).tolist() == np.argsort(-found).tolist()
    assert len(set(found.tolist())) == len(found)
    assert found.min() > 0
    assert found.max() <= 1


def test_a_single_document_is_average() -> None:
    assert relative(np.array([17.0], np.float32)).tolist() == [0.5]
