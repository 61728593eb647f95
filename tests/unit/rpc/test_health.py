"""Tables: the statuses of a server, and when a batch counts as stuck."""

import pytest

from services.inference.stall_detector import StallDetector
from services.rpc.server.health import State, statuses


@pytest.mark.parametrize(
    ("state", "problems", "serving"),
    [
        ("loading", {}, {"liveness"}),
        ("loading", {"a.A": ""}, {"liveness"}),
        ("ready", {"a.A": ""}, {"", "a.A", "startup", "liveness"}),
        ("ready", {"a.A": "stuck"}, {"startup", "liveness"}),
        ("ready", {"a.A": "stuck", "b.B": ""}, {"b.B", "startup", "liveness"}),
        ("draining", {"a.A": ""}, {"startup", "liveness"}),
    ],
)
def test_readiness_startup_and_liveness_are_separate(state: State, problems: dict[str, str], serving: set[str]) -> None:
    said = statuses(state, problems)
    assert {name for name, serves in said.items() if serves} == serving
    assert said.keys() == {"", "startup", "liveness", *problems}


def test_a_batch_is_stuck_when_it_takes_far_longer_than_expected() -> None:
    detector = StallDetector("interactive", least_s=5.0)
    quick, slow = detector.begin(100.0, expected_s=0.01), detector.begin(100.0, expected_s=2.0)
    assert detector.problem(104.9) == ""
    assert detector.problem(106.0) == "a batch of the interactive lane has been running for 6 s"
    detector.end(quick)
    assert detector.problem(119.0) == ""
    assert detector.problem(121.0) == "a batch of the interactive lane has been running for 21 s"
    detector.end(slow)
    assert detector.problem(1000.0) == ""


def test_bulk_batches_may_take_longer_because_of_their_priority() -> None:
    detector = StallDetector("bulk", least_s=5.0)
    detector.begin(0.0, expected_s=1.0)
    assert detector.problem(49.0) == ""
    assert detector.problem(51.0)
