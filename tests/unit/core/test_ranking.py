import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.ranking import Ranking

SCORED = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(-1e6, 1e6), max_size=20)


@given(SCORED)
def test_of_orders_by_score_and_equal_scores_by_id(scored: dict[str, float]) -> None:
    ranking = Ranking.of(scored.items())
    assert dict(ranking.items()) == scored
    assert list(ranking.ids) == sorted(scored, key=lambda id_: (-scored[id_], id_))


@given(SCORED, st.integers(0, 25))
def test_top_is_a_prefix(scored: dict[str, float], k: int) -> None:
    ranking = Ranking.of(scored.items())
    assert ranking.top(k).ids == ranking.ids[:k]
    assert ranking.top(k).scores == ranking.scores[:k]


@given(SCORED, st.sets(st.text(min_size=1, max_size=3)))
def test_only_keeps_order_and_scores(scored: dict[str, float], ids: set[str]) -> None:
    ranking = Ranking.of(scored.items())
    kept = ranking.only(ids)
    assert kept.ids == tuple(id_ for id_ in ranking.ids if id_ in ids)
    assert all(scored[id_] == score for id_, score in kept.items())


@pytest.mark.parametrize(
    ("ids", "scores", "words"),
    [
        (("a", "b"), (1.0,), "2 ids and 1 scores"),
        (("a", "a"), (1.0, 0.5), "unique ids"),
        (("a",), (float("nan"),), "finite"),
        (("a",), (float("inf"),), "finite"),
        (("a", "b"), (0.5, 1.0), "descending scores"),
        (("b", "a"), (1.0, 1.0), "equal scores by id"),
    ],
)
def test_an_invalid_ranking_is_rejected(ids: tuple[str, ...], scores: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ranking(ids, scores)


@pytest.mark.parametrize(
    ("min_score", "max_drop", "kept"),
    [(None, None, 4), (0.5, None, 3), (2.0, None, 0), (None, 0.2, 2), (None, 0.45, 4), (0.95, 0.45, 1), (0.9, 0.01, 1)],
)
def test_cut_ends_a_ranking_early(min_score: float | None, max_drop: float | None, kept: int) -> None:
    ranking = Ranking(("a", "b", "c", "d"), (1.0, 0.9, 0.5, 0.1))
    assert ranking.cut(min_score=min_score, max_drop=max_drop) == ranking.top(kept)


def test_ranks_start_at_one() -> None:
    assert Ranking(("b", "a"), (2.0, 1.0)).ranks() == {"b": 1, "a": 2}
