import pytest

from loadtest.load.calls import Call, Outage, percentile_s, percentiles, summary
from loadtest.load.generator import ClosedLoop, OpenLoop
from loadtest.load.run import Outcome, load_of, spans_of, summaries_of
from loadtest.load.scenario import Phase, Scenario, Workload
from loadtest.report.svg import Axis, Line, chart, ticks


def call(
    at: float, latency_s: float = 0.1, code: str = "OK", *, sent_after: float = 0.0, degraded: bool = False
) -> Call:
    return Call(0, at, at + sent_after, at + latency_s, code, degraded)


def test_latency_counts_from_the_intended_send_time() -> None:
    assert call(1.0, 0.5, sent_after=0.4).latency_s == pytest.approx(0.5)


def test_percentiles_are_those_of_the_values_within_three_digits() -> None:
    found = percentiles(number / 1000 for number in range(1, 1001))
    assert found is not None
    assert (found.p50, found.p99, found.max) == pytest.approx((0.5, 0.99, 1.0), rel=2e-3)
    assert percentiles([]) is None
    assert percentile_s([], 99) is None


def test_summary_tells_good_late_refused_and_degraded_apart() -> None:
    calls = [
        call(0),
        call(1, degraded=True),
        call(2, 3.0),  # OK, and too late to be good
        call(3, 1.0, "DEADLINE_EXCEEDED"),
        call(4, 0.001, "UNAVAILABLE/OVERLOADED"),
    ]
    one = summary(calls, phase="p", workload="w", duration_s=10, deadline_s=1)
    assert (one.offered, one.good, one.degraded) == (5, 2, 1)
    assert one.codes == {"OK": 3, "DEADLINE_EXCEEDED": 1, "UNAVAILABLE/OVERLOADED": 1}
    assert one.error_share == pytest.approx(0.6)
    assert one.goodput_per_s == pytest.approx(0.2)
    assert one.latency is not None
    assert one.latency.max == pytest.approx(3.0, rel=2e-3)
    assert one.refused_p99_s == pytest.approx(0.001, rel=2e-3)


def test_an_outage_is_seen_when_calls_to_nobody_last() -> None:
    outage = Outage(2.0)
    assert outage.note([call(0), call(1, code="UNAVAILABLE"), call(2.5, code="UNAVAILABLE")]) is None
    assert outage.note([call(3.5, code="UNAVAILABLE")]) == pytest.approx(1.1)


def test_a_server_that_refuses_with_a_reason_is_there() -> None:
    outage = Outage(2.0)
    refused = [call(at, code="UNAVAILABLE/OVERLOADED") for at in (0, 5, 10)]
    assert outage.note([call(0, code="UNAVAILABLE"), *refused, call(11, code="UNAVAILABLE")]) is None


def test_calls_belong_to_the_phase_they_were_meant_for() -> None:
    workload = Workload(name="w", rpc="embed", deadline_s=1)
    phases = [Phase(name="cut", duration_s=1, rate=1, measured=False), Phase(name="kept", duration_s=1, rate=1)]
    scenario = Scenario(description="d", workloads=(workload,), phases=tuple(phases))
    calls = [call(0.95, 0.5), call(1.0, 5.0), call(1.5)]
    (one,) = summaries_of(scenario, spans_of(phases), calls)
    assert (one.phase, one.offered) == ("kept", 2)


def test_phases_follow_one_another_and_switch_workloads_off() -> None:
    phases = [
        Phase(name="a", duration_s=2, rate=10),
        Phase(name="b", duration_s=3, rate=10, only=("other",)),
        Phase(name="c", duration_s=1, rate=100),
    ]
    spans = spans_of(phases)
    assert [(start, end) for _, start, end in spans] == [(0, 2), (2, 5), (5, 6)]
    load = load_of(Workload(name="w", rpc="embed", deadline_s=1, arrivals="constant"), spans, seed=1)
    assert isinstance(load, OpenLoop)
    assert ((load.times_s < 2).sum(), ((load.times_s >= 2) & (load.times_s < 5)).sum()) == (20, 0)
    assert (load.times_s >= 5).sum() == 100
    closed = load_of(Workload(name="w", rpc="embed", deadline_s=1, concurrency=3), spans, seed=1)
    assert closed == ClosedLoop(3, ((0, 2), (5, 6)))


def outcome_of(calls: list[Call]) -> Outcome:
    workload = Workload(name="w", rpc="embed", deadline_s=1)
    phases = [Phase(name="p", duration_s=10, rate=1)]
    scenario = Scenario(description="d", workloads=(workload,), phases=tuple(phases))
    spans = spans_of(phases)
    return Outcome(scenario, calls=calls, spans=spans, summaries=summaries_of(scenario, spans, calls))


def test_a_generator_that_cannot_keep_up_makes_the_figures_doubtful() -> None:
    assert not outcome_of([call(at, 0.5, sent_after=0.01) for at in range(9)]).doubts
    (doubt,) = outcome_of([call(at, 0.5, sent_after=0.2) for at in range(9)]).doubts
    assert "p/w: the generator sent late, p99 200 ms" in doubt
    busy = outcome_of([])
    busy.cpu_share = 0.95
    assert busy.doubts == ["the generator used 95% of a core: increase --workers"]


def test_requests_that_were_sent_again_are_told() -> None:
    outcome = outcome_of([call(at) for at in range(9)])
    assert outcome.repeats({"w": 9}) == []
    assert outcome.repeats({"w": 4})[0].startswith("w: 9 calls of 4 distinct requests")


@pytest.mark.parametrize(("low", "high", "log"), [(0, 1, False), (0, 7, False), (3, 400, False), (1, 1000, True)])
def test_ticks_are_few_and_inside(low: float, high: float, log: bool) -> None:
    found = ticks(low, high, log=log)
    assert 2 <= len(found) <= 12
    assert all(low <= value <= high for value in found)


def test_chart_draws_each_line_and_escapes_names() -> None:
    svg = chart("t", Axis("s"), Axis("ms", log=True), [Line("a<b", [(0, 1), (1, 10)]), Line("empty", [])])
    assert svg.count("<polyline") == 1
    assert "a&lt;b" in svg
    assert "no data" in chart("t", Axis("s"), Axis("ms"), [])
