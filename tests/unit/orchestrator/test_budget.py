import pytest

from services.orchestrator.search.budget import allowance_s, has_time_for, reserve_s


@pytest.mark.parametrize(
    ("remaining", "configured", "expected"),
    [(10.0, 0.01, 0.01), (0.1, 0.01, 0.01), (0.05, 0.01, 0.005), (0.0, 0.01, 0.0), (-1.0, 0.01, 0.0)],
)
def test_reserve(remaining: float, configured: float, expected: float) -> None:
    assert reserve_s(remaining, configured) == pytest.approx(expected)


def test_a_stage_that_may_be_skipped_gets_its_share_and_another_all() -> None:
    assert allowance_s(2.0, share=0.25, skippable=True) == 0.5
    assert allowance_s(2.0, share=0.25, skippable=False) == 2.0


@pytest.mark.parametrize(
    ("remaining", "each", "expected"),
    [(1.0, 0.0, True), (1.0, 0.24, True), (1.0, 0.25, False), (0.0, 0.0, False), (-0.1, 0.0, False)],
)
def test_a_slice_starts_only_if_it_can_end_in_time(remaining: float, each: float, expected: bool) -> None:
    assert has_time_for(4, remaining, each) is expected
