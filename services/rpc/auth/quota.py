"""A token bucket: a pace that may be exceeded for a while.

Rule: no clock; every method takes `now`, in seconds.
"""

from dataclasses import dataclass


@dataclass
class Bucket:
    """`rate` units flow in each second, until `burst` are there.

    What is taken may be more than there is room for: it is let through when the bucket is full, and paid for after.
    So nothing is refused for ever, and the pace holds over time.
    """

    rate: float
    burst: float
    level: float
    """Units there were at `at`; below 0 what is still owed."""
    at: float

    @classmethod
    def full(cls, rate: float, burst: float, now: float) -> "Bucket":
        """One that nothing was taken from."""
        return cls(rate, burst, burst, now)

    def wait_s(self, units: float, now: float) -> float:
        """Seconds until so many units may be taken; 0 when they may now."""
        return max(0.0, (min(units, self.burst) - self._level(now)) / self.rate)

    def take(self, units: float, now: float) -> None:
        """Take them, whether they are there or not."""
        self.level, self.at = self._level(now) - units, max(now, self.at)

    def _level(self, now: float) -> float:
        return min(self.burst, self.level + self.rate * max(0.0, now - self.at))
