"""How many searches an orchestrator runs at once: as many as end in time.

    every search that ends in time, while the limit is used     limit + 1 / limit
    a search that ends too late                                 0.9 x what ran at once; once for all that ran then

Rule: no clock and no I/O.
Fact: without it, at twice the capacity a third of the searches that were begun ended too late: the event loop itself
was the queue, and services that refuse in time were reached too late to say so.
Source: additive increase, multiplicative decrease, Chiu and Jain 1989; as in Netflix's concurrency-limits (AIMDLimit).
"""

from dataclasses import dataclass
from typing import Final

_LEAST: Final = 4.0
_MOST: Final = 1024.0
_LOWERED: Final = 0.9


@dataclass
class AimdLimit:
    """The limit, and how many run."""

    value: float = 64.0
    running: int = 0
    _lowered_at: float = float("-inf")

    def enter(self) -> bool:
        """Begin a search; False when there are enough. Each that began ends in `leave`."""
        if self.running >= int(self.value):
            return False
        self.running += 1
        return True

    def leave(self, *, started: float, now: float, was_late: bool) -> None:
        """End a search. What began before the limit was lowered last says nothing of the limit that is now."""
        if was_late and started > self._lowered_at:
            self.value = max(_LEAST, _LOWERED * min(self.value, self.running))
            self._lowered_at = now
        elif not was_late and self.running >= self.value / 2:
            self.value = min(_MOST, self.value + 1 / self.value)
        self.running -= 1
