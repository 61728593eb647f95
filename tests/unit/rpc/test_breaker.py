import pytest

from services.rpc.client.breaker import Breaker

# Steps: (event, now, expected answer of `permits` or None, expected state after it)
Step = tuple[str, float, bool | None, str]

CASES: dict[str, list[Step]] = {
    "stays closed while failures are not in a row": [
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("record_success", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("permits", 0.0, True, "closed"),
    ],
    "opens after three in a row and refuses": [
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 1.0, None, "closed"),
        ("record_failure", 2.0, None, "open"),
        ("permits", 2.0, False, "open"),
        ("permits", 2.9, False, "open"),
    ],
    "lets one probe through, which closes it": [
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "open"),
        ("permits", 1.0, True, "half_open"),
        ("permits", 1.0, False, "half_open"),
        ("record_success", 1.1, None, "closed"),
        ("permits", 1.1, True, "closed"),
    ],
    "opens again when the probe fails, for the whole time": [
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "open"),
        ("permits", 1.0, True, "half_open"),
        ("record_failure", 1.5, None, "open"),
        ("permits", 2.4, False, "open"),
        ("permits", 2.5, True, "half_open"),
    ],
    "lets another probe through when one is abandoned": [
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "open"),
        ("permits", 1.0, True, "half_open"),
        ("record_abandonment", 1.1, None, "half_open"),
        ("permits", 1.1, True, "half_open"),
    ],
    "needs three failures again after it closed": [
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "closed"),
        ("record_failure", 0.0, None, "open"),
        ("permits", 1.0, True, "half_open"),
        ("record_success", 1.1, None, "closed"),
        ("record_failure", 1.2, None, "closed"),
        ("record_failure", 1.2, None, "closed"),
    ],
}


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES.keys())
def test_breaker(steps: list[Step]) -> None:
    breaker = Breaker(failures_max=3, open_s=1.0)
    for event, now, answer, state in steps:
        given: bool | None = None
        if event == "permits":
            given = breaker.permits(now)
        elif event == "record_failure":
            breaker.record_failure(now)
        else:
            getattr(breaker, event)()
        assert (given, breaker.state) == (answer, state)


def test_a_breaker_returns_the_time_until_its_next_probe() -> None:
    breaker = Breaker(failures_max=1, open_s=2.0)
    breaker.record_failure(10.0)
    assert breaker.wait_s(10.5) == 1.5
    assert breaker.permits(12.0)
    assert breaker.wait_s(12.0) == pytest.approx(0.2)
