"""Tables and laws: slots whose oldest holder is displaced."""

from hypothesis import given
from hypothesis import strategies as st

from services.rpc.server.slots import Slots


def test_the_oldest_holder_of_a_connection_or_of_all_is_displaced() -> None:
    slots = Slots(most=3, most_each=2)
    assert slots.acquire("a") == (0, None)
    assert slots.acquire("b") == (1, None)
    assert slots.acquire("b") == (2, None)
    assert slots.acquire("b") == (3, 1)
    assert slots.acquire("c") == (4, 0)
    assert len(slots) == 3


def test_a_connection_whose_calls_do_not_end_gets_no_more_slots() -> None:
    slots = Slots(most=3, most_each=2)
    tickets = [taken[0] for _ in range(4) if (taken := slots.acquire("stuck"))]
    assert slots.acquire("stuck") is None
    assert slots.acquire("other") is not None
    slots.release(tickets[0])
    assert slots.acquire("stuck") is not None


def test_peers_that_cannot_be_told_apart_have_no_limit_of_their_own() -> None:
    slots = Slots(most=5, most_each=1)
    assert [taken[1] for _ in range(6) if (taken := slots.acquire(""))] == [None] * 5 + [0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_slots_never_exceed_their_number_and_none_is_lost(
    steps: list[tuple[str, bool]], most: int, most_each: int
) -> None:
    slots, inside = Slots(most, most_each), list[int]()
    for connection, leaves in steps:
        if taken := slots.acquire(connection):
            inside.append(taken[0])
        assert len(slots) <= most
        if leaves and inside:
            slots.release(inside.pop(0))
    for ticket in inside:
        slots.release(ticket)
    assert len(slots) == 0
    assert slots == Slots(most, most_each, _tickets=slots._tickets)
