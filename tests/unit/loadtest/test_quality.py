import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loadtest.compare.regression import judge
from loadtest.quality import health, losses, measures


def test_measures_are_those_of_the_book() -> None:
    qrels = {"q": {"a": 1, "b": 1, "c": 0}, "unanswered": {"a": 1}}
    found = measures.measure({"q": ["x", "a", "y", "b"]}, qrels)
    ideal = 1 + 1 / math.log2(3)
    assert found["nDCG@10"]["q"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found["RR@10"]["q"] == pytest.approx(0.5)
    assert found["AP"]["q"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["R@10"]["q"] == 1
    assert found["nDCG@10"]["unanswered"] == 0
    assert measures.mean(found["RR@10"]) == pytest.approx(0.25)


def test_equal_systems_do_not_differ_and_unequal_ones_do() -> None:
    chance = np.random.default_rng(0)
    base = {str(n): float(value) for n, value in enumerate(chance.uniform(0.2, 0.8, 100))}
    noisy = {name: value + float(chance.normal(0, 0.05)) for name, value in base.items()}
    better = {name: value + 0.1 for name, value in noisy.items()}
    assert measures.difference(base, base).p_value == 1
    assert measures.difference(noisy, base).p_value > 0.05
    shown = measures.difference(better, base)
    assert shown.p_value < 0.001
    assert shown.low < shown.mean < shown.high
    assert shown.low > 0


@pytest.mark.parametrize(
    ("standings", "expected"),
    [
        (None, losses.NOT_A_CANDIDATE),
        ({"dense": 3, "rerank": 1}, losses.KEPT),
        ({"dense": 30, "rerank": 1}, "won by rerank"),
        ({"dense": 3, "rerank": 11}, "lost by rerank"),
        ({"dense": 30, "rerank": 40}, losses.NEVER_WITHIN),
        ({"dense": 3, "bm25": 50, "fuse": 4}, "won by fuse"),
        ({"dense": 10}, losses.KEPT),
    ],
)
def test_fate_of_a_relevant_document(standings: dict[str, int] | None, expected: str) -> None:
    assert losses.fate(standings, 10) == expected


def test_fates_are_counted_over_queries() -> None:
    found = {"q1": {"a": {"dense": 1}}, "q2": {"a": {"dense": 20}}}
    counts = losses.fates({"q1": ["a", "b"], "q2": ["a"], "q3": ["z"]}, found, 10)
    assert counts == {losses.KEPT: 1, losses.NOT_A_CANDIDATE: 2, losses.NEVER_WITHIN: 1}


def unit(vectors: NDArray[Any]) -> health.F32:
    result: health.F32 = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result


def test_effective_rank_is_the_number_of_dimensions_used() -> None:
    chance = np.random.default_rng(0)
    spread = unit(chance.normal(size=(500, 16)))
    flat = spread.copy()
    flat[:, 4:] = 0
    assert health.effective_rank(spread) == pytest.approx(16, rel=0.05)
    assert health.effective_rank(unit(flat)) == pytest.approx(4, rel=0.05)


def test_uniformity_is_lower_for_vectors_that_spread() -> None:
    chance = np.random.default_rng(0)
    spread = unit(chance.normal(size=(300, 16)))
    huddled = unit(spread + 5)
    assert health.uniformity(spread) < health.uniformity(huddled) < 0


def test_hubness_sees_a_document_that_is_found_for_everything() -> None:
    chance = np.random.default_rng(0)
    queries, documents = unit(chance.normal(size=(200, 8)) + 1), unit(chance.normal(size=(300, 8)))
    with_hub = np.concatenate([documents, unit(np.ones((1, 8)))])
    assert health.hubness(queries, with_hub, k=1) > health.hubness(queries, documents, k=1) > 0


def test_the_nearer_half_is_near_to_training_queries() -> None:
    training = unit(np.eye(4)[:1])
    queries = unit(np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [1, 0.2, 0, 0], [0, 0, 1, 0]]))
    assert health.nearer_half(queries, training).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("center", "expected"),
    [(1.0, "no difference shown"), (0.8, "slower"), (1.25, "faster"), (0.97, "no difference shown")],
)
def test_gate_tells_a_change_from_noise(center: float, expected: str) -> None:
    ratios = center * np.exp(np.random.default_rng(1).normal(0, 0.04, 12))
    assert judge(ratios.tolist(), 0.05).verdict == expected


def test_gate_shows_nothing_when_the_noise_is_larger_than_the_change() -> None:
    ratios = 0.9 * np.exp(np.random.default_rng(1).normal(0, 0.5, 6))
    assert judge(ratios.tolist(), 0.05).verdict == "no difference shown"


def test_commands_for_a_client_know_nothing_of_the_services() -> None:
    """Load, eval and compare are clients like any other: they run where no server is installed."""
    code = (
        "import sys, loadtest.__main__;"
        "sys.exit(any(name.split('.')[0] in {'services', 'export', 'onnxruntime'} for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
