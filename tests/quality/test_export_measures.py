"""What export measures with: pure functions on small arrays."""

import numpy as np
import pytest

from export.parity import verify
from services.inference.bundle import Parity, Variant, VariantName


def test_min_cosine_is_the_least_over_all_rows_of_all_outputs() -> None:
    unit = np.eye(2, dtype=np.float32)
    expected = {"dense": [unit[0], unit[1]], "multi_vector": [unit, unit[:1]]}
    found = {"dense": [unit[0], unit[1]], "multi_vector": [unit, np.array([[3.0, 4.0]], dtype=np.float32)]}
    assert verify.min_cosine(expected, expected) == 1
    assert verify.min_cosine(expected, found) == pytest.approx(0.6)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_row_that_is_nothing_or_not_a_number_agrees_with_nothing(value: float) -> None:
    expected = {"dense": [np.ones(3, dtype=np.float32)]}
    with np.errstate(invalid="ignore"):
        assert verify.min_cosine(expected, {"dense": [np.full(3, value, dtype=np.float32)]}) == -1
    assert verify.deviation(Parity(min_cosine=-1, rank_agreement=1, batch_invariance=1))


def test_rows_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected rows of shape \(1, 3\), found \(1, 2\)"):
        verify.min_cosine({"dense": [np.ones(3, dtype=np.float32)]}, {"dense": [np.ones(2, dtype=np.float32)]})


def test_a_score_that_is_not_a_number_is_infinitely_far() -> None:
    zero, broken = np.zeros(1, dtype=np.float32), np.full(1, np.nan, dtype=np.float32)
    assert verify.max_difference([zero], [zero + 0.5]) == 0.5
    assert verify.max_difference([zero], [broken]) == float("inf")


def test_rank_agreement_counts_the_ten_best_in_any_order() -> None:
    scores = np.arange(20, dtype=np.float32)[None]
    shuffled = scores.copy()
    shuffled[0, 10:] = shuffled[0, 10:][::-1]
    assert verify.rank_agreement(scores, shuffled) == 1
    assert verify.rank_agreement(scores, -scores) == 0


@pytest.mark.parametrize(
    ("rank_agreement", "batch_invariance", "speed", "chosen"),
    [
        (0.96, 0.99995, 2.0, "int8"),
        (0.96, 0.99995, 0.9, "fp32"),
        (0.94, 0.99995, 2.0, "fp32"),
        (0.96, 0.9998, 2.0, "fp32"),
    ],
)
def test_the_default_is_the_fastest_that_ranks_and_batches_well(
    rank_agreement: float, batch_invariance: float, speed: float, chosen: str
) -> None:
    exact = Parity(min_cosine=1, rank_agreement=1, batch_invariance=1)
    other = Parity(min_cosine=0.99, rank_agreement=rank_agreement, batch_invariance=batch_invariance)
    variants: dict[VariantName, Variant] = {
        "fp32": Variant(file="a", parity=exact, tolerance=1, relative_speed=1),
        "int8": Variant(file="b", parity=other, tolerance=1, relative_speed=speed),
        "fp16": Variant(file="c", parity=exact, tolerance=1, relative_speed=9),  # only when asked for
    }
    assert verify.choose(variants) == chosen
