"""Weights found on queries, and pipelines computed again from what their stages said."""

from collections.abc import Sequence

import pytest
import yaml

from loadtest.quality.replay import StageRankings, Weights, replay, weights_of
from loadtest.quality.tune import coordinate_ascent, paste
from services.core.fusion import interpolate, weighted_sum
from services.core.ranking import Ranking
from services.orchestrator.pipelines.loader import load, parse
from services.orchestrator.pipelines.schema import PACKAGED, Pipeline

TEXT = """
default:
  description: All that has weights.
  retrieve:
    - {name: dense, kind: dense, depth: 3}
    - {name: words, kind: text, depth: 3}
  fuse: {method: weighted_sum, normalisation: z_score, weights: {dense: 1, words: 0.5}, depth: 3}
  refine: {name: maxsim, depth: 2, interpolate: {weight: 0.25, normalisation: min_max}}
"""
PROBED = StageRankings.of(
    {
        "dense": {"a": 3.0, "b": 2.0, "c": 1.0},
        "words": {"c": 9.0, "d": 8.0, "a": 1.0},
        "maxsim": {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.4},
    }
)


def pipeline() -> Pipeline:
    return parse(TEXT, source="p")["default"]


def test_a_pipeline_is_computed_again_as_the_orchestrator_computes_it() -> None:
    dense, words = PROBED.rankings["dense"], PROBED.rankings["words"]
    fused = weighted_sum([dense, words], [1, 0.5], "z_score").top(3)
    scored = PROBED.rankings["maxsim"].only(fused.top(2).ids)
    expected = interpolate(fused.top(2), scored, weight=0.25, normalization="min_max")
    assert replay(pipeline(), weights_of(pipeline()), PROBED) == expected


def test_a_stage_that_was_left_out_said_nothing_and_changes_nothing() -> None:
    silent = StageRankings({**PROBED.rankings, "words": Ranking(), "maxsim": Ranking()})
    assert replay(pipeline(), weights_of(pipeline()), silent).ids == ("a", "b")


def test_every_packaged_pipeline_has_its_weights_by_name() -> None:
    weights = {name: sorted(weights_of(one)) for name, one in load(PACKAGED).items()}
    assert weights["balanced"][:3] == ["fuse.dense", "fuse.terms", "fuse.words"]
    assert weights["fast"] == [] or all(name.startswith("fuse.") for name in weights["fast"])


def grid(name: str) -> Sequence[float]:
    return (0.0, 0.5, 1.0, 1.5, 2.0)


def test_weights_climb_one_at_a_time_to_the_best() -> None:
    def value(weights: Weights) -> float:
        return -((weights["a"] - 1.5) ** 2) - (weights["b"] - weights["a"] / 3) ** 2

    assert coordinate_ascent({"a": 0.0, "b": 0.0}, grid, value) == {"a": 1.5, "b": 0.5}


def test_weights_that_change_nothing_stay_as_they_were() -> None:
    assert coordinate_ascent({"a": 0.7}, grid, lambda weights: 1.0) == {"a": 0.7}


def test_what_is_to_be_pasted_is_a_part_of_a_pipeline() -> None:
    text = paste(pipeline(), {"fuse.dense": 1.0, "fuse.words": 0.3, "mix.maxsim": 0.4})
    assert yaml.safe_load(text)["fuse"]["weights"] == {"dense": 1, "words": 0.3}
    assert "interpolate: {weight: 0.4, normalisation: min_max}" in text


@pytest.mark.parametrize("name", sorted(load(PACKAGED)))
def test_packaged_pipelines_ask_their_retrievers_for_no_less_than_they_fuse(name: str) -> None:
    one = load(PACKAGED)[name]
    assert one.max_top_k <= sum(retriever.depth for retriever in one.retrieve)
