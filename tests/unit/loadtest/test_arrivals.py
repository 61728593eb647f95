import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load.arrivals import Arrivals, arrivals, recorded

KINDS: list[Arrivals] = ["poisson", "constant"]


@given(
    kind=st.sampled_from(KINDS),
    rate=st.floats(0, 200),
    to_rate=st.floats(0, 200),
    duration_s=st.floats(0.1, 60),
    seed=st.integers(0, 1000),
)
def test_times_rise_and_lie_within_the_duration(
    kind: Arrivals, rate: float, to_rate: float, duration_s: float, seed: int
) -> None:
    times = arrivals(kind, rate, to_rate, duration_s, seed) if rate + to_rate > 0 else np.array([])
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times <= duration_s * (1 + 1e-9))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate", "to_rate"), [(50, 50), (0, 100), (100, 0), (10, 90)])
def test_count_is_what_the_rates_say(kind: Arrivals, rate: float, to_rate: float) -> None:
    count = len(arrivals(kind, rate, to_rate, 200, seed=3))
    assert abs(count - 10_000) <= 4 * np.sqrt(10_000)  # four standard deviations of a Poisson count


def test_constant_arrivals_are_evenly_spaced() -> None:
    times = arrivals("constant", 10, 10, 2, seed=0)
    np.testing.assert_allclose(np.diff(times), 0.1)
    assert len(times) == 20


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(arrivals("poisson", 100, 100, 200, seed=5))
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)


def test_a_ramp_sends_more_in_its_second_half() -> None:
    times = arrivals("constant", 0, 100, 10, seed=0)
    assert (times < 5).sum() == pytest.approx(125, abs=1)
    assert len(times) == 500


def test_equal_seeds_give_equal_times() -> None:
    assert arrivals("poisson", 5, 5, 10, seed=1).tolist() == arrivals("poisson", 5, 5, 10, seed=1).tolist()
    assert arrivals("poisson", 5, 5, 10, seed=1).tolist() != arrivals("poisson", 5, 5, 10, seed=2).tolist()


def test_a_recording_is_read_line_by_line() -> None:
    assert recorded(["0.5\n", "\n", "0.5\n", "2\n"], source="f").tolist() == [0.5, 0.5, 2]


@pytest.mark.parametrize(
    ("line", "told"), [("soon", "got 'soon'"), ("1", "in ascending order"), ("nan", "in ascending order")]
)
def test_a_malformed_recording_names_the_line(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"f:2: .*{told}"):
        recorded(["2", line], source="f")
