"""The cache respects both limits and evicts the least recently used."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.cache import Cache


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50))), st.integers(0, 8), st.integers(0, 100))
def test_limits_always_hold(puts: list[tuple[int, int]], max_entries: int, max_bytes: int) -> None:
    cache: Cache[int, int] = Cache(max_entries=max_entries, max_bytes=max_bytes)
    for key, size in puts:
        cache.put(key, size, size)
        assert len(cache) <= max_entries
        assert cache.bytes <= max_bytes
    sizes = [cache.get(key) for key in range(21)]
    assert cache.bytes == sum(size for size in sizes if size is not None)


def test_the_least_recently_used_is_evicted_first() -> None:
    cache: Cache[str, str] = Cache(max_entries=2, max_bytes=100)
    cache.put("a", "A", 1)
    cache.put("b", "B", 1)
    assert cache.get("a") == "A"
    cache.put("c", "C", 1)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", None, "C")


def test_a_value_over_the_limit_is_not_stored_and_evicts_nothing() -> None:
    cache: Cache[str, str] = Cache(max_entries=2, max_bytes=10)
    cache.put("a", "A", 5)
    cache.put("big", "BIG", 11)
    assert (cache.get("a"), cache.get("big")) == ("A", None)
