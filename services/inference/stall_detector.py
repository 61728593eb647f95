"""Which batches run, and whether one of them will not end.

Rule: no clock; every method takes `now`, in seconds.

Facts: a batch takes longer than expected when others have the cores, never by so much as here. The bulk lane gets a
tenth of a busy machine, so its batches may take ten times as long without anything being wrong.
"""

from dataclasses import dataclass, field
from typing import Final

_TIMES: Final = {"interactive": 10.0, "bulk": 50.0}


@dataclass
class StallDetector:
    """The batches of one lane that run."""

    lane: str
    least_s: float
    """What nobody takes for stuck, in seconds, however little was expected."""
    _due: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When each began, and when it counts as stuck."""
    _next: int = 0

    def begin(self, now: float, expected_s: float) -> int:
        """A batch starts; a number to end it by."""
        self._next += 1
        self._due[self._next] = (now, now + max(self.least_s, _TIMES[self.lane] * expected_s))
        return self._next

    def end(self, number: int) -> None:
        """It ended, however."""
        del self._due[number]

    def problem(self, now: float) -> str:
        """That a batch is stuck, and since when; empty when none is."""
        stuck = [began for began, due in self._due.values() if now > due]
        return f"a batch of the {self.lane} lane runs for {now - min(stuck):.0f} s" if stuck else ""
