"""A cache with limits on entries and bytes, which evicts the least recently used entries."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, each with a size in bytes. A limit of 0 keeps nothing."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0
        """Total size of the entries."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return a value and mark it as the most recently used; None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Store a value, and evict others until the limits hold. A value larger than the limit is not stored."""
        if size > self._max_bytes:
            return
        self._forget(key)
        self._entries[key] = (value, size)
        self.bytes += size
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: K) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self.bytes -= size
