"""Truncation and windows: nothing is lost that is not reported."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model.tokenizer import cut, split_room


@given(st.integers(0, 200), st.integers(1, 60), st.data())
def test_windows_read_every_token_in_order(count: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room // 2))
    ids = list(range(count))
    windows = cut(ids, room, overlap)
    assert [token for position, window in enumerate(windows) for token in window[overlap if position else 0 :]] == ids
    assert all(len(window) <= room for window in windows)
    assert len(windows) == 1 or all(len(window) > overlap for window in windows)


@pytest.mark.parametrize(("room", "overlap"), [(10, -1), (10, 6), (1, 1)])
def test_windows_that_overlap_too_far_are_refused(room: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="expected an overlap"):
        cut([1, 2, 3], room, overlap)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(2, 300))
def test_a_pair_fills_the_room_and_the_longer_text_loses_first(first: int, second: int, room: int) -> None:
    kept_first, kept_second = split_room(first, second, room)
    assert kept_first <= first
    assert kept_second <= second
    assert kept_first + kept_second == min(first + second, room)
    if kept_first < first and kept_second < second:
        assert abs(kept_first - kept_second) <= 1
