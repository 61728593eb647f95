"""Verdicts on attacks: a bound that is broken is reported as broken, and nothing else is."""

from dataclasses import replace

import pytest
from sluice.cli.console import CommandFailed

from loadtest.attacks.command import ATTACKS, chosen_of
from loadtest.attacks.gzip_bombs import GzipBombs
from loadtest.attacks.verdict import Answer, Bounds, Measured, Outcome, broken, counted

BOUNDS = Bounds(growth_mb=100, processor_s=1.0)
STEP = Measured("step", {"gateway": 100.0, "retrieval": 3.0}, {"gateway": 1.0}, {"OK": 3, "INVALID_ARGUMENT": 1})
PROBES = (Answer("health", 3.0, is_health=True), Answer("search", 10.0))
HOLDS = Outcome([STEP], PROBES, {"gateway": 1.3, "retrieval": 1.0})


def test_what_is_exactly_at_its_bounds_holds() -> None:
    assert broken(HOLDS, BOUNDS) == []


def test_without_a_bound_nothing_is_too_much() -> None:
    assert broken(replace(HOLDS, steps=[replace(STEP, growth_mb={"gateway": 1e6})]), Bounds()) == []


def test_only_the_growth_of_bounded_servers_counts() -> None:
    outcome = replace(HOLDS, steps=[replace(STEP, growth_mb={"gateway": 500.0, "retrieval": 3.0})])
    bounds = replace(BOUNDS, growing=("retrieval",))
    assert broken(outcome, bounds) == []
    assert outcome.growth(bounds) == ("retrieval", 3.0)
    assert outcome.growth(BOUNDS) == ("gateway", 500.0)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (
            replace(HOLDS, steps=[STEP, replace(STEP, step="two", growth_mb={"gateway": 9.0, "retrieval": 100.5})]),
            "two: memory grew by 100.5 MB (retrieval), expected at most 100",
        ),
        (
            replace(HOLDS, steps=[replace(STEP, growth_mb={"gateway": 101.0}), replace(STEP, growth_mb={"x": 102.0})]),
            "step: memory grew by 102 MB (x), expected at most 100; 1 more of 2 steps are over it",
        ),
        (
            replace(HOLDS, steps=[replace(STEP, processor_s={"gateway": 1.01})]),
            "step: processor time was 1.01 s (gateway), expected at most 1",
        ),
        (
            replace(HOLDS, remaining={"gateway": 1.0, "embedding": 1.31}),
            "memory after the attack: 1.31 x (embedding), expected at most 1.3",
        ),
        (
            replace(HOLDS, remaining={"gateway": 1.0, "embedding": 0.0}),
            "embedding has ended",
        ),
        (
            replace(HOLDS, probes=[*PROBES, Answer("health", 3.1, is_health=True)]),
            "health checks waited 3100 ms, expected at most 3000",
        ),
        (
            replace(HOLDS, probes=[*PROBES, Answer("search", 10.1)]),
            "legitimate calls waited 1.01e+04 ms, expected at most 1e+04",
        ),
        (
            replace(HOLDS, probes=[*PROBES, Answer("search", 0.1, "RESOURCE_EXHAUSTED: too many")]),
            "1 of 3 probes failed: search: RESOURCE_EXHAUSTED: too many",
        ),
        (replace(HOLDS, probes=[]), "no probe was sent: nothing is known about other callers"),
        (replace(HOLDS, steps=[replace(STEP, answers={"OK": 1, "INTERNAL": 2})]), "step: answered INTERNAL 2"),
        (replace(HOLDS, steps=[replace(STEP, answers={"UNKNOWN": 1, "500": 2})]), "step: answered 500 2, UNKNOWN 1"),
        (replace(HOLDS, steps=[replace(STEP, complaints=("the token failed",))]), "step: the token failed"),
    ],
)
def test_a_broken_bound_is_reported_as_broken(outcome: Outcome, expected: str) -> None:
    assert broken(outcome, BOUNDS) == [expected]


def test_every_broken_bound_is_reported() -> None:
    bad = replace(STEP, growth_mb={"gateway": 500.0}, processor_s={"gateway": 5.0}, answers={"500": 1})
    assert len(broken(Outcome([bad], [Answer("health", 9.0, "gone", is_health=True)], {"gateway": 2.0}), BOUNDS)) == 6


def test_answers_are_counted_with_the_most_frequent_first() -> None:
    assert counted({"OK": 1, "RESET": 5, "CLOSED": 5}) == "CLOSED 5, RESET 5, OK 1"


def test_attacks_are_chosen_by_name_and_changed_by_parameters() -> None:
    assert chosen_of(["gzip"], ["unpacked_mb=5", "seed=7"]) == [GzipBombs(seed=7, unpacked_mb=5)]
    assert [one.name for one in chosen_of([], [])] == [one.name for one in ATTACKS]


@pytest.mark.parametrize(
    ("only", "parameters", "message"),
    [
        (["nothing"], [], "--only: expected gzip, .*, got nothing"),
        (["gzip"], ["hold_s=1"], "expected a parameter of .*, got 'hold_s'"),
        (["gzip"], ["calls=many"], "expected calls to be int, got 'many'"),
    ],
)
def test_an_unknown_name_or_parameter_is_refused(only: list[str], parameters: list[str], message: str) -> None:
    with pytest.raises(CommandFailed, match=message):
        chosen_of(only, parameters)
