"""Detection of batches that do not end.

Rule: no clock; every method takes `now`, in seconds.

Facts: a batch takes longer than expected if other work has the cores, but never by the factors used here. The bulk lane
gets a tenth of a busy machine, so its batches can take ten times as long without a fault.
"""

from dataclasses import dataclass, field
from typing import Final

_TIMES: Final = {"interactive": 10.0, "bulk": 50.0}


@dataclass
class StallDetector:
    """The running batches of one lane."""

    lane: str
    least_s: float
    """Seconds below which no batch counts as stuck, however short the expected time was."""
    _due: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Start of each batch, and the time from which it counts as stuck."""
    _next: int = 0

    def begin(self, now: float, expected_s: float) -> int:
        """Record the start of a batch, and return a number for `end`."""
        self._next += 1
        self._due[self._next] = (now, now + max(self.least_s, _TIMES[self.lane] * expected_s))
        return self._next

    def end(self, number: int) -> None:
        """Record the end of a batch, successful or not."""
        del self._due[number]

    def problem(self, now: float) -> str:
        """Return that a batch is stuck, and for how long; empty if none is."""
        stuck = [began for began, due in self._due.values() if now > due]
        return f"a batch of the {self.lane} lane has been running for {now - min(stuck):.0f} s" if stuck else ""
