"""Places that the oldest holder gives up, as tables and laws."""

from hypothesis import given
from hypothesis import strategies as st

from services.rpc.server.places import Places


def test_a_connection_gives_up_its_own_oldest_and_a_full_house_the_oldest_of_all() -> None:
    places = Places(most=3, most_each=2)
    assert places.take("a") == (0, None)
    assert places.take("b") == (1, None)
    assert places.take("b") == (2, None)
    assert places.take("b") == (3, 1)
    assert places.take("c") == (4, 0)
    assert len(places) == 3


def test_a_connection_whose_calls_do_not_end_gets_no_more_and_others_do() -> None:
    places = Places(most=3, most_each=2)
    tickets = [taken[0] for _ in range(4) if (taken := places.take("stuck"))]
    assert places.take("stuck") is None
    assert places.take("other") is not None
    places.leave(tickets[0])
    assert places.take("stuck") is not None


def test_peers_that_cannot_be_told_apart_have_no_limit_of_their_own() -> None:
    places = Places(most=5, most_each=1)
    assert [taken[1] for _ in range(6) if (taken := places.take(""))] == [None] * 5 + [0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_no_more_hold_a_place_than_there_are_and_none_is_forgotten(
    steps: list[tuple[str, bool]], most: int, most_each: int
) -> None:
    places, inside = Places(most, most_each), list[int]()
    for connection, leaves in steps:
        if taken := places.take(connection):
            inside.append(taken[0])
        assert len(places) <= most
        if leaves and inside:
            places.leave(inside.pop(0))
    for ticket in inside:
        places.leave(ticket)
    assert len(places) == 0
    assert places == Places(most, most_each, _tickets=places._tickets)
