"""A table of search plans for segments."""

import pytest

from services.retrieval.domain.schema import CoarseType
from services.retrieval.embedded.index.planner import Plan, candidates_to_fetch, plan

CASES = [
    # total, matching, depth, has_graph, expected
    (1_000_000, 1_000_000, 10, True, Plan(fetch=65, ef=128)),
    (1_000_000, 1_000_000, 1000, True, Plan(fetch=1550, ef=1550)),
    (1_000_000, 500_000, 10, True, Plan(fetch=65, ef=256)),
    (1_000_000, 100_000, 10, True, Plan(fetch=65, ef=1280)),
    (1_000_000, 10_000, 10, True, Plan(fetch=65, ef=None)),
    (1_000_000, 1_000, 10, True, Plan(fetch=65, ef=None)),
    (1_000_000, 12, 10, True, Plan(fetch=12, ef=None)),
    (1_000_000, 0, 10, True, Plan(fetch=0, ef=None)),
    (1_000_000, 1_000_000, 10, False, Plan(fetch=65, ef=None)),
    (5_000, 5_000, 10, True, Plan(fetch=65, ef=None)),
]


@pytest.mark.parametrize(("total", "matching", "depth", "has_graph", "expected"), CASES)
def test_plan(total: int, matching: int, depth: int, has_graph: bool, expected: Plan) -> None:
    fetch = candidates_to_fetch(depth, None, CoarseType.I8)
    assert plan(total=total, matching=matching, fetch=fetch, has_graph=has_graph) == expected
