"""The batch sizes and waits of an index stream after rejections and successes: tables."""

from typing import Any

import pytest

from services.orchestrator.indexing.pace import Pace


def refused(pace: Pace, count: int, now: float, **given: Any) -> float | None:
    return pace.record_rejected(count, now=now, chance=0.0, **given)


def test_a_rejected_batch_is_halved_down_to_one_document() -> None:
    pace = Pace(32, 600.0)
    sizes = [pace.size]
    for second in range(6):
        assert refused(pace, pace.size, second) == 0.0
        sizes.append(pace.size)
    assert sizes == [32, 16, 8, 4, 2, 1, 1]


def test_a_rejected_batch_that_was_not_full_is_halved_by_its_own_size() -> None:
    pace = Pace(32, 600.0)
    refused(pace, 5, 0.0)
    assert pace.size == 2


def test_batches_grow_by_one_while_full_ones_are_accepted_up_to_the_maximum() -> None:
    pace = Pace(4, 600.0)
    refused(pace, 4, 0.0)
    sizes = []
    for count in (1, 2, 1, 3, 4, 4):
        pace.record_accepted(count)
        sizes.append(pace.size)
    assert sizes == [2, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    ("asked_s", "chance", "refusals", "waited"),
    [
        (19.0, 0.0, 1, 19.0),
        (19.0, 1.0, 9, 19.0),
        (None, 1.0, 1, 0.05),
        (None, 1.0, 3, 0.2),
        (None, 1.0, 50, 1.0),
        (None, 0.0, 50, 0.0),
        (700.0, 0.0, 1, 600.0),
    ],
    ids=["as asked", "as asked, often", "first", "third", "longest", "luck", "never past its patience"],
)
def test_the_wait_is_what_the_service_asks_for_or_doubles(
    asked_s: float | None, chance: float, refusals: int, waited: float
) -> None:
    pace = Pace(32, 600.0)
    waits = [pace.record_rejected(1, now=0.0, chance=chance, asked_s=asked_s) for _ in range(refusals)]
    assert waits[-1] == pytest.approx(waited)


def test_patience_counts_from_the_first_rejection_since_the_last_success() -> None:
    pace = Pace(32, 600.0)
    assert refused(pace, 32, 1000.0, asked_s=5.0) == 5.0
    assert refused(pace, 16, 1599.0, asked_s=5.0) == 1.0
    pace.record_accepted(8)
    assert refused(pace, 9, 5000.0, asked_s=5.0) == 5.0
    assert refused(pace, 4, 5600.0) is None


def test_batches_for_an_unavailable_service_keep_their_size() -> None:
    pace = Pace(32, 600.0)
    assert refused(pace, 32, 0.0, is_too_much=False) == 0.0
    assert pace.size == 32
