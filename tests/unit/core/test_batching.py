import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.batching import BatchLimits, batches


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], []),
        ([1], [[1]]),
        ([1, 1, 1, 1], [[1, 1, 1], [1]]),
        ([6, 4, 1], [[6, 4], [1]]),
        ([11, 1], [[11], [1]]),
        ([1, 11, 1], [[1], [11], [1]]),
    ],
    ids=["none", "one", "count", "weight", "too heavy", "too heavy in between"],
)
def test_a_batch_ends_at_either_limit(weights: list[int], expected: list[list[int]]) -> None:
    assert list(batches(weights, BatchLimits(max_count=3, max_weight=10), lambda weight: weight)) == expected


@given(st.lists(st.integers(0, 20)), st.integers(1, 5), st.integers(1, 20))
def test_batches_keep_every_item_in_order_within_the_limits(weights: list[int], count: int, weight: int) -> None:
    found = list(batches(weights, BatchLimits(count, weight), lambda one: one))
    assert [one for batch in found for one in batch] == weights
    assert all(len(batch) <= count and (sum(batch) <= weight or len(batch) == 1) for batch in found)
