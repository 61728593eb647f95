import pytest

from services.rpc.client.retry import LONGEST_WAIT_S, RetryBudget, wait_s


def test_the_budget_starts_full_and_is_spent() -> None:
    budget = RetryBudget(saved_max=3.0, saved=3.0)
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]


def test_ten_answered_calls_earn_one_retry() -> None:
    budget = RetryBudget(ratio=0.125, saved=0.0)
    for _ in range(7):
        budget.earn()
        assert not budget.spend()
    budget.earn()
    assert budget.spend()
    assert not budget.spend()


def test_savings_have_a_limit() -> None:
    budget = RetryBudget(saved_max=2.0, saved=2.0)
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("attempt", "chance", "asked", "expected"),
    [
        (1, 1.0, None, 0.05),
        (2, 1.0, None, 0.1),
        (3, 0.5, None, 0.1),
        (1, 0.0, None, 0.0),
        (20, 1.0, None, LONGEST_WAIT_S),
        (10_000, 1.0, None, LONGEST_WAIT_S),
        (1, 1.0, 2.0, 2.0),
        (6, 1.0, 0.1, LONGEST_WAIT_S),
    ],
)
def test_wait(attempt: int, chance: float, asked: float | None, expected: float) -> None:
    assert wait_s(attempt, chance=chance, asked_s=asked) == pytest.approx(expected)
