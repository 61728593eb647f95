from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.fusion import Normalization, append_unscored, interpolate, normalize, rrf, weighted_sum
from services.core.ranking import Ranking

RANKINGS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(-1000, 1000).map(lambda n: n / 8), min_size=1, max_size=8
).map(lambda scored: Ranking.of(scored.items()))
NORMALISATIONS = st.sampled_from(["min_max", "z_score"])


def test_rrf_is_the_sum_of_reciprocal_ranks() -> None:
    fused = rrf([Ranking(("a", "b"), (9.0, 8.0)), Ranking(("b", "c"), (0.2, 0.1))], constant=60)
    assert fused.ids == ("b", "a", "c")
    assert fused.scores == pytest.approx((1 / 62 + 1 / 61, 1 / 61, 1 / 62))


@given(st.lists(RANKINGS, min_size=1, max_size=3))
def test_rrf_does_not_depend_on_the_order_of_rankings_or_the_scale_of_scores(rankings: list[Ranking]) -> None:
    scaled = [Ranking(r.ids, tuple(2 * score + 3 for score in r.scores)) for r in rankings]
    assert rrf(scaled) == rrf(rankings)
    for order in permutations(rankings):
        assert dict(rrf(order).items()) == pytest.approx(dict(rrf(rankings).items()))


@given(RANKINGS)
def test_rrf_of_one_ranking_keeps_its_order(ranking: Ranking) -> None:
    assert rrf([ranking]).ids == ranking.ids


@given(RANKINGS, NORMALISATIONS)
def test_normalized_scores_do_not_depend_on_scale(ranking: Ranking, normalization: Normalization) -> None:
    scaled = Ranking(ranking.ids, tuple(4 * score - 7 for score in ranking.scores))
    assert normalize(scaled, normalization) == pytest.approx(normalize(ranking, normalization), abs=1e-9)


def test_min_max_is_0_to_1_and_z_score_has_mean_0_and_deviation_1() -> None:
    ranking = Ranking(("a", "b", "c"), (4.0, 2.0, 0.0))
    assert normalize(ranking, "min_max") == {"a": 1.0, "b": 0.5, "c": 0.0}
    z = normalize(ranking, "z_score")
    assert sum(z.values()) == pytest.approx(0.0)
    assert sum(score**2 for score in z.values()) / 3 == pytest.approx(1.0)


@pytest.mark.parametrize("normalization", ["min_max", "z_score"])
def test_equal_scores_are_normalized_to_zero(normalization: Normalization) -> None:
    assert normalize(Ranking(("a", "b"), (3.0, 3.0)), normalization) == {"a": 0.0, "b": 0.0}
    assert normalize(Ranking(), normalization) == {}


def test_weighted_sum_gives_a_missing_document_the_lowest_score() -> None:
    left, right = Ranking(("a", "b"), (1.0, 0.0)), Ranking(("c", "a"), (10.0, 0.0))
    fused = weighted_sum([left, right], [1.0, 2.0], "min_max")
    assert dict(fused.items()) == {"c": 2.0, "a": 1.0, "b": 0.0}


@given(RANKINGS, NORMALISATIONS)
def test_interpolation_with_weight_1_is_the_second_ranking(first: Ranking, normalization: Normalization) -> None:
    second = Ranking.of(zip(first.ids, first.scores[::-1], strict=True))
    mixed = interpolate(first, second, weight=1.0, normalization=normalization)
    assert dict(mixed.items()) == pytest.approx(normalize(second, normalization))


@given(RANKINGS, RANKINGS)
def test_interpolation_ranks_the_documents_of_the_second_ranking(first: Ranking, second: Ranking) -> None:
    shared = second.only(first.ids)
    assert set(interpolate(first, shared, weight=0.5, normalization="z_score").ids) == set(shared.ids)


def test_interpolation_rejects_documents_that_the_first_ranking_lacks() -> None:
    with pytest.raises(ValueError, match="got 1 others"):
        interpolate(Ranking(("a",), (1.0,)), Ranking(("b",), (1.0,)), weight=0.5, normalization="min_max")


@given(RANKINGS, RANKINGS)
def test_unscored_documents_follow_and_both_orders_are_kept(scored: Ranking, rest: Ranking) -> None:
    whole = append_unscored(scored, rest)
    assert whole.ids[: len(scored)] == scored.ids
    assert whole.ids[len(scored) :] == tuple(id_ for id_ in rest.ids if id_ not in scored.ids)


def test_without_scored_documents_the_rest_is_unchanged() -> None:
    rest = Ranking(("a", "b"), (1.0, 0.5))
    assert append_unscored(Ranking(), rest) == rest
    assert append_unscored(rest, Ranking()) == rest
