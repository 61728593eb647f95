"""A token bucket: a rate that may be exceeded in bursts.

Rule: no clock; every method takes `now`, in seconds.
"""

from dataclasses import dataclass


@dataclass
class Bucket:
    """A bucket that refills by `rate` units a second, up to `burst`.

    A request larger than the burst passes when the bucket is full, and leaves a debt. So no request is rejected
    forever, and the rate holds over time.
    """

    rate: float
    burst: float
    level: float
    """Units at the time `at`; negative for a debt."""
    at: float

    @classmethod
    def full(cls, rate: float, burst: float, now: float) -> "Bucket":
        """Return a full bucket."""
        return cls(rate, burst, burst, now)

    def wait_s(self, units: float, now: float) -> float:
        """Return the seconds until so many units may be taken; 0 if they may be taken now."""
        return max(0.0, (min(units, self.burst) - self._level(now)) / self.rate)

    def take(self, units: float, now: float) -> None:
        """Take the units, even if the bucket has fewer."""
        self.level, self.at = self._level(now) - units, max(now, self.at)

    def _level(self, now: float) -> float:
        return min(self.burst, self.level + self.rate * max(0.0, now - self.at))
