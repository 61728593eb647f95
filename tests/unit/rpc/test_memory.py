"""When freed memory is returned, by the size of the process over time."""

from services.rpc.server.memory import Due

MB = 2**20


def trims(due: Due, sizes: list[int], after: dict[int, int] | None = None) -> list[int]:
    """Return the seconds at which a process is trimmed. `after` has the size after a trim, by second."""
    found = []
    for second, size in enumerate(sizes):
        if due.at(second, size * MB):
            found.append(second)
            due.record_trim((after or {}).get(second, size) * MB)
    return found


def test_a_process_that_does_not_grow_is_not_trimmed() -> None:
    assert trims(Due(100 * MB), [100, 110, 95, 105, 100] * 20) == []


def test_growth_is_trimmed_soon() -> None:
    assert trims(Due(100 * MB), [100, 200, 100, 100], {1: 100}) == [1]


def test_memory_in_use_is_trimmed_at_growing_intervals_and_then_counts_as_usual() -> None:
    due = Due(100 * MB)
    assert trims(due, [100, *[200] * 200]) == [1, 2, 4, 8, 16, 32]
    assert due.usual_bytes == 200 * MB


def test_further_growth_is_trimmed_soon() -> None:
    assert trims(Due(100 * MB), [100, *[200] * 20, 230, 230]) == [1, 2, 4, 8, 16, 21, 22]


def test_freed_memory_no_longer_counts_as_usual() -> None:
    due = Due(100 * MB)
    trims(due, [100, *[200] * 40, 100])
    assert due.usual_bytes == 100 * MB
