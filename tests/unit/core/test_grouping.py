"""Grouping compared with a slow implementation of its definition."""

from hypothesis import given
from hypothesis import strategies as st

from services.core.grouping import group_by_value
from services.core.ranking import Ranking

IDS = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=12)


def test_groups_are_ordered_by_their_best_and_documents_without_a_value_are_alone() -> None:
    ranking = Ranking.of([("a", 5), ("b", 4), ("c", 3), ("d", 2), ("e", 1)])
    values = {"a": "x", "c": "y", "d": "x", "e": "x"}
    groups = group_by_value(ranking, values, count=3, size=2)
    assert [(group.value, group.ranking.ids) for group in groups] == [("x", ("a", "d")), (None, ("b",)), ("y", ("c",))]
    assert [group.ranking.ids for group in group_by_value(ranking, values, count=1, size=9)] == [("a", "d", "e")]


def test_a_value_and_an_equal_id_are_different_groups() -> None:
    ranking = Ranking.of([("x", 2), ("b", 1)])
    assert [group.value for group in group_by_value(ranking, {"b": "x"}, count=5, size=5)] == [None, "x"]


@given(IDS, st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 4))
def test_every_group_holds_the_best_of_its_value(ids: list[str], random: object, count: int, size: int) -> None:
    choose = random.choice  # type: ignore[attr-defined]
    ranking = Ranking.of((id_, choose(range(3))) for id_ in ids)
    values = {id_: value for id_ in ids if (value := choose([None, "p", "q"])) is not None}
    expected: list[list[str]] = []
    for id_ in ranking.ids:
        if not any(id_ in members for members in expected):
            same = [other for other in ranking.ids if id_ in values and values.get(other) == values[id_]]
            expected.append(same or [id_])
    groups = group_by_value(ranking, values, count=count, size=size)
    assert [list(group.ranking.ids) for group in groups] == [members[:size] for members in expected[:count]]
