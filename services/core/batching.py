"""Items grouped into batches by count and weight."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class BatchLimits:
    """The size of a batch. An item that is too heavy for any batch forms a batch of its own."""

    max_count: int
    """Most items of a batch."""
    max_weight: int
    """Most weight of a batch, for example bytes."""

    def admits(self, count: int, weight: int, added: int) -> bool:
        """Return whether a batch of `count` items that weigh `weight` has room for another one that weighs `added`."""
        return count == 0 or (count < self.max_count and weight + added <= self.max_weight)


def batches(items: Iterable[T], limits: BatchLimits, weigh: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield the items in order, each batch as large as the limits allow. Yields nothing for no items."""
    batch: list[T] = []
    weight = 0
    for item in items:
        added = weigh(item)
        if not limits.admits(len(batch), weight, added):
            yield batch
            batch, weight = [], 0
        batch.append(item)
        weight += added
    if batch:
        yield batch
