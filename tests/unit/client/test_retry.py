import pytest
from sluice.client.retry import Attempts, RetryPolicy, Throttle
from sluice.errors import NotFound, SluiceError, Unavailable


@pytest.mark.parametrize(
    ("tried", "asked_s", "jitter", "expected"),
    [
        (1, None, 1.0, 0.1),
        (2, None, 1.0, 0.2),
        (4, None, 1.0, 0.8),
        (5, None, 1.0, 1.0),
        (50, None, 1.0, 1.0),
        (1, None, 0.0, 0.0),
        (1, None, 0.5, 0.05),
        (1, 3.0, 0.5, 3.05),
        (50, 3.0, 1.0, 4.0),
    ],
)
def test_wait_doubles_to_its_limit_and_adds_the_delay_of_the_server(
    tried: int, asked_s: float | None, jitter: float, expected: float
) -> None:
    policy = RetryPolicy(initial_s=0.1, max_s=1.0)
    assert policy.wait_s(tried, asked_s=asked_s, jitter=jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("error", "now"),
    [
        (NotFound("no"), 0.0),
        (Unavailable("asks for longer than there is", retry_after_s=9.0), 1.0),
        (Unavailable("too late"), 9.99),
    ],
)
def test_error_that_is_not_retried_is_raised(error: SluiceError, now: float) -> None:
    attempts = Attempts(RetryPolicy(initial_s=0.1), None, deadline=10.0)
    with pytest.raises(type(error)) as caught:
        attempts.failed(error, now=now, jitter=1.0)
    assert caught.value is error


def test_attempts_are_limited() -> None:
    attempts = Attempts(RetryPolicy(attempts=3), None, deadline=10.0)
    attempts.failed(Unavailable("1"), now=0.0, jitter=0.0)
    attempts.failed(Unavailable("2"), now=0.0, jitter=0.0)
    with pytest.raises(Unavailable, match="3"):
        attempts.failed(Unavailable("3"), now=0.0, jitter=0.0)


def test_remaining_time_is_never_negative() -> None:
    attempts = Attempts(RetryPolicy(), None, deadline=10.0)
    assert attempts.remaining_s(7.5) == 2.5
    assert attempts.remaining_s(11.0) == 0.0


def test_throttle_allows_retries_above_half_of_its_tokens() -> None:
    throttle = Throttle(max_tokens=4.0)
    assert [throttle.failed() for _ in range(6)] == [True, False, False, False, False, False]
    for _ in range(25):
        throttle.succeeded()
    assert not throttle.failed()
    for _ in range(1000):
        throttle.succeeded()
    assert [throttle.failed() for _ in range(2)] == [True, False]
