"""Laws that hold for any batch queue, and cases that show its policy."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.batching import BatchQueue, Row
from services.inference.cost import Cost, Size, Throughput

COST = Cost(overhead_tokens=11, seconds_per_token=0.001)
LONG = Cost(overhead_tokens=11, seconds_per_token=0.001, quadratic=0.01)
LATER = 1e9


def queue_of(
    lengths: list[int], *, max_tokens: int = 2048, max_rows: int = 64, window_tokens: int = 8192
) -> BatchQueue[int]:
    queue: BatchQueue[int] = BatchQueue(
        max_batch_tokens=max_tokens, max_batch_rows=max_rows, window_tokens=window_tokens
    )
    for position, length in enumerate(lengths):
        queue.push(Row(position, length, arrived=position, deadlines=[LATER]))
    return queue


def lengths_of(rows: list[Row[int]]) -> list[int]:
    return [row.length for row in rows]


LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS, st.integers(300, 2048), st.integers(1, 16))
def test_every_row_is_taken_once_within_the_limits(lengths: list[int], max_tokens: int, max_rows: int) -> None:
    queue = queue_of(lengths, max_tokens=max_tokens, max_rows=max_rows)
    seen: list[int] = []
    while batch := queue.take(0, COST).batch:
        assert len(batch) <= max_rows
        assert max(lengths_of(batch)) * len(batch) <= max_tokens
        assert lengths_of(batch) == sorted(lengths_of(batch))
        seen += [row.payload for row in batch]
    assert sorted(seen) == list(range(len(lengths)))
    assert queue.size == Size()
    assert len(queue) == 0


@given(LENGTHS.filter(bool))
def test_the_oldest_row_is_in_the_next_batch(lengths: list[int]) -> None:
    queue = queue_of(lengths)
    waiting = list(range(len(lengths)))
    while batch := queue.take(0, COST).batch:
        assert waiting[0] in {row.payload for row in batch}
        waiting = [position for position in waiting if position not in {row.payload for row in batch}]


@given(LENGTHS.filter(bool))
def test_a_batch_costs_no_more_a_token_than_its_oldest_row_alone(lengths: list[int]) -> None:
    oldest = lengths[0]
    for cost in (COST, LONG):
        batch = queue_of(lengths).take(0, cost).batch
        alone = cost.seconds(Size.of([oldest])) / cost.effective_tokens(Size.of([oldest]))
        padded = Size.of_batch(len(batch), max(lengths_of(batch)))
        each = cost.seconds(padded) / cost.effective_tokens(Size.of(lengths_of(batch)))
        assert each <= alone * (1 + 1e-9)


@given(LENGTHS.filter(bool), st.integers(1, 2000))
def test_a_row_is_overtaken_by_at_most_a_window(lengths: list[int], window: int) -> None:
    queue = queue_of(lengths, window_tokens=window)
    waiting = list(range(len(lengths)))
    while batch := queue.take(0, COST).batch:
        for row in batch:
            passed = [position for position in waiting if position < row.payload]
            assert sum(lengths[position] for position in passed) < window + max(lengths)
        waiting = [position for position in waiting if position not in {row.payload for row in batch}]


def test_rows_of_similar_length_share_a_batch_and_others_do_not() -> None:
    queue = queue_of([20, 200, 19, 205, 21])
    assert lengths_of(queue.take(0, COST).batch) == [19, 20, 21]
    assert lengths_of(queue.take(0, COST).batch) == [200, 205]


def test_without_fixed_cost_only_equal_lengths_share_a_batch() -> None:
    queue = queue_of([20, 21, 20])
    assert lengths_of(queue.take(0, Cost(0, 0.001)).batch) == [20, 20]


def test_a_row_longer_than_a_batch_runs_alone() -> None:
    queue = queue_of([500, 500], max_tokens=300)
    assert lengths_of(queue.take(0, COST).batch) == [500]


def test_rows_that_would_be_late_are_dropped_and_the_next_one_runs() -> None:
    queue: BatchQueue[str] = BatchQueue(max_batch_tokens=2048, max_batch_rows=64, window_tokens=8192)
    queue.push(Row("too late", 100, arrived=0, deadlines=[0.05]))
    queue.push(Row("nobody waits", 100, arrived=0))
    queue.push(Row("in time", 100, arrived=0, deadlines=[5.0]))
    decision = queue.take(0, COST)
    assert [row.payload for row in decision.batch] == ["in time"]
    assert [row.payload for row in decision.expired] == ["too late", "nobody waits"]


def test_a_row_that_would_be_late_in_this_batch_waits_for_one_of_its_own() -> None:
    queue: BatchQueue[str] = BatchQueue(max_batch_tokens=2048, max_batch_rows=64, window_tokens=8192)
    queue.push(Row("oldest", 100, arrived=0, deadlines=[5.0]))
    queue.push(Row("late", 100, arrived=0, deadlines=[0.15]))
    decision = queue.take(0, COST)
    assert [row.payload for row in decision.batch] == ["oldest"]
    assert decision.expired == []
    assert [row.payload for row in queue.take(0, COST).batch] == ["late"]


def test_a_row_is_kept_while_one_of_its_callers_has_time() -> None:
    queue: BatchQueue[str] = BatchQueue(max_batch_tokens=2048, max_batch_rows=64, window_tokens=8192)
    queue.push(Row("shared", 100, arrived=0, deadlines=[0.01, 5.0]))
    assert [row.payload for row in queue.take(0, COST).batch] == ["shared"]


def test_a_cost_fits_two_runs_and_follows_later_ones() -> None:
    cost = Cost.fit((4, 0.014), (104, 0.114))
    assert round(cost.seconds_per_token, 6) == 0.001
    assert round(cost.overhead_tokens, 6) == 10
    for _ in range(200):
        cost = cost.after(Size.of([100]), 0.220)
    assert round(cost.seconds(Size.of([100])), 3) == 0.220


def test_a_cost_of_equally_fast_runs_is_valid() -> None:
    cost = Cost.fit((4, 0.001), (128, 0.001))
    assert cost.seconds_per_token > 0
    assert cost.seconds(Size.of([128])) > 0


def test_a_cost_fits_the_quadratic_part_of_long_runs() -> None:
    true = Cost(overhead_tokens=20, seconds_per_token=1e-4, quadratic=1 / 700)
    cost = Cost.fit(*((tokens, true.seconds(Size.of([tokens]))) for tokens in (4, 32, 128, 512)))
    assert cost.seconds(Size.of([2048])) == pytest.approx(true.seconds(Size.of([2048])))
    assert cost.after(Size.of([512]), 1.0).quadratic == cost.quadratic


@given(st.lists(st.floats(0.3, 3), min_size=4, max_size=4), st.floats(0, 0.01))
def test_no_part_of_a_cost_is_negative_however_the_runs_vary(noise: list[float], quadratic: float) -> None:
    true = Cost(overhead_tokens=20, seconds_per_token=1e-4, quadratic=quadratic)
    runs = [
        (tokens, true.seconds(Size.of([tokens])) * factor)
        for tokens, factor in zip((4, 32, 128, 512), noise, strict=True)
    ]
    cost = Cost.fit(*runs)
    assert min(cost.overhead_tokens, cost.quadratic) >= 0
    assert cost.seconds_per_token > 0


def test_rows_whose_padding_would_cost_more_attention_than_a_run_saves_do_not_share_a_batch() -> None:
    assert lengths_of(queue_of([200, 190]).take(0, COST).batch) == [190, 200]
    assert lengths_of(queue_of([200, 190]).take(0, replace(COST, quadratic=0.02)).batch) == [200]


def test_throughput_is_weighted_by_tokens_not_by_batches() -> None:
    throughput = Throughput(seconds_per_token=0.001)
    by_small = by_large = throughput
    for _ in range(64):
        by_small = by_small.after(64, 64 * 0.002)
    by_large = by_large.after(4096, 4096 * 0.002)
    assert 0.0013 < by_small.seconds_per_token < 0.002
    assert 0.0013 < by_large.seconds_per_token < 0.002
    assert throughput.after(100_000, 100_000 * 0.002).seconds_per_token == 0.002
