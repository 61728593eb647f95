"""The number of searches that an orchestrator runs at once, adjusted to what ends in time.

    a search that ends in time, while at least half of the limit is used    limit + 1 / limit
    a search that ends late                                                 0.9 x the number running, once per decrease

Rule: no clock and no I/O.
Fact: without a limit, at twice the capacity a third of the searches ended late. They waited in the event loop, so the
other services could not reject them in time.
Source: additive increase, multiplicative decrease, Chiu and Jain 1989; as in Netflix's concurrency-limits (AIMDLimit).
"""

from dataclasses import dataclass
from typing import Final

_MIN: Final = 4.0
_MAX: Final = 1024.0
_DECREASE: Final = 0.9


@dataclass
class AimdLimit:
    """A concurrency limit with additive increase and multiplicative decrease."""

    value: float = 64.0
    """The limit; its integer part counts."""
    running: int = 0
    """The number of searches that are running."""
    _decreased_at: float = float("-inf")

    def enter(self) -> bool:
        """Count a search as running, and return True; return False if the limit is reached.

        Every search that entered must leave.
        """
        if self.running >= int(self.value):
            return False
        self.running += 1
        return True

    def leave(self, *, started: float, now: float, was_late: bool) -> None:
        """Record the end of a search and adjust the limit.

        A late search that started before the last decrease is ignored: it ran under the higher limit.
        """
        if was_late and started > self._decreased_at:
            self.value = max(_MIN, _DECREASE * min(self.value, self.running))
            self._decreased_at = now
        elif not was_late and self.running >= self.value / 2:
            self.value = min(_MAX, self.value + 1 / self.value)
        self.running -= 1
