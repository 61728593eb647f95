"""What a server says of itself, and when a batch counts as stuck: tables."""

import pytest

from services.inference.stall_detector import Watch
from services.rpc.server.health import State, statuses


@pytest.mark.parametrize(
    ("state", "troubles", "serving"),
    [
        ("loading", {}, {"liveness"}),
        ("loading", {"a.A": ""}, {"liveness"}),
        ("ready", {"a.A": ""}, {"", "a.A", "startup", "liveness"}),
        ("ready", {"a.A": "stuck"}, {"startup", "liveness"}),
        ("ready", {"a.A": "stuck", "b.B": ""}, {"b.B", "startup", "liveness"}),
        ("draining", {"a.A": ""}, {"startup", "liveness"}),
    ],
)
def test_readiness_startup_and_liveness_are_apart(state: State, troubles: dict[str, str], serving: set[str]) -> None:
    said = statuses(state, troubles)
    assert {name for name, serves in said.items() if serves} == serving
    assert said.keys() == {"", "startup", "liveness", *troubles}


def test_a_batch_is_stuck_when_it_takes_far_longer_than_expected() -> None:
    watch = Watch("interactive", least_s=5.0)
    quick, slow = watch.begin(100.0, expected_s=0.01), watch.begin(100.0, expected_s=2.0)
    assert watch.trouble(104.9) == ""
    assert watch.trouble(106.0) == "a batch of the interactive lane runs for 6 s"
    watch.end(quick)
    assert watch.trouble(119.0) == ""
    assert watch.trouble(121.0) == "a batch of the interactive lane runs for 21 s"
    watch.end(slow)
    assert watch.trouble(1000.0) == ""


def test_bulk_batches_may_take_longer_because_others_go_first() -> None:
    watch = Watch("bulk", least_s=5.0)
    watch.begin(0.0, expected_s=1.0)
    assert watch.trouble(49.0) == ""
    assert watch.trouble(51.0)
