import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load.capacity import Bounds, Probe, capacity, next_rate


def search(true_capacity: float, bounds: Bounds) -> list[Probe]:
    """The probes of a search in a world where exactly the rates up to `true_capacity` hold."""
    probes: list[Probe] = []
    while (rate := next_rate(probes, bounds)) is not None:
        probes.append(Probe(rate, rate <= true_capacity))
        assert len(probes) < 100
    return probes


@given(true=st.floats(1, 1000), precision=st.floats(0.01, 0.5))
def test_search_ends_within_the_precision_below_the_true_capacity(true: float, precision: float) -> None:
    found = capacity(search(true, Bounds(1, 10_000, precision)))
    assert found <= true <= found * (1 + precision)


def test_search_stops_at_the_highest_rate() -> None:
    assert capacity(search(1e9, Bounds(1, 300, 0.1))) == 300


def test_search_gives_up_when_the_lowest_rate_does_not_hold() -> None:
    probes = search(0.5, Bounds(1, 300, 0.1))
    assert probes == [Probe(1, False)]
    assert capacity(probes) == 0


def test_a_rate_that_held_by_luck_above_one_that_did_not_does_not_count() -> None:
    assert capacity([Probe(1, True), Probe(4, False), Probe(8, True)]) == 1


@pytest.mark.parametrize("precision", [0.05, 0.1, 0.5])
def test_search_takes_few_probes(precision: float) -> None:
    assert len(search(100, Bounds(1, 10_000, precision))) <= 13
