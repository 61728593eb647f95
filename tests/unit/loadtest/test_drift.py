"""Drift: what changed from the first quarter to the last, and when there is too little to say."""

import pytest

from loadtest.load.calls import Call
from loadtest.load.scrape import Series
from loadtest.report import drift
from loadtest.report.svg import Axis, Band, Line, chart


def calls(count: int, latencies_s: tuple[float, float]) -> list[Call]:
    """Evenly over 100 s: the first half with one latency, the second with the other."""
    moments = [100 * number / count for number in range(count)]
    return [Call(0, t, t, t + latencies_s[t >= 50], "OK", False) for t in moments]


def test_a_series_that_grows_drifts_by_the_means_of_its_quarters() -> None:
    found = drift.of_values("memory", "MiB", [(t, 100.0 + t) for t in range(100)], 0, 100)
    assert found is not None
    assert (found.early, found.late) == (112.0, 187.0)
    assert found.change == pytest.approx(187 / 112 - 1)


def test_latency_drifts_by_its_percentile() -> None:
    found = drift.of_latency("search p99", calls(200, (0.01, 0.02)), 99, 0, 100)
    assert found is not None
    assert found.change == pytest.approx(1, rel=0.01)


def test_what_is_too_little_says_nothing() -> None:
    assert drift.of_values("memory", "MiB", [(1, 1.0), (99, 2.0)], 0, 100) is None
    assert drift.of_latency("search p99", calls(40, (0.01, 0.02)), 99, 0, 100) is None


def test_a_counter_grows_by_the_second_and_not_across_a_restart() -> None:
    samples = [{"cpu": value} for value in (1.0, 2.0, 4.0, 0.0, 1.0)]
    series = Series("a", "", [10.0, 11.0, 12.0, 13.0, 14.0], samples)
    assert series.per_s("cpu", 10.0) == [(1.0, 1.0), (2.0, 2.0), (4.0, 1.0)]


def test_a_chart_shades_every_second_band_and_parts_a_line_where_nothing_was_measured() -> None:
    line = Line("p50", [(0, 1), (1, 2), (8, 1), (9, 2)], gap=2)
    drawn = chart("Latency", Axis("s", ends=(0, 10)), Axis("ms"), [line], [Band("one", 0, 5), Band("two", 5, 10)])
    assert drawn.count("<polyline") == 2
    assert drawn.count('rect class="band"') == 1
    assert ">one</text>" in drawn
    assert ">two</text>" in drawn
