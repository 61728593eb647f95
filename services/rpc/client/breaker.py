"""A circuit breaker: stops paying for calls to a service that keeps failing.

    closed ──failures_max failures in a row──▶ open
    open ──open_s seconds later──▶ half open: one call goes through as a probe, the others are refused
    half open ──the probe succeeds──▶ closed; it fails ──▶ open; it is abandoned ──▶ half open, another may go

Rule: no clock and no I/O. Every permitted call ends in exactly one of `succeeded`, `failed` and `abandoned`.
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass
class Breaker:
    """The state of one downstream service."""

    failures_max: int = 5
    """Failures in a row that open it."""
    open_s: float = 1.0
    """Seconds it refuses before it lets a probe through."""
    state: State = "closed"
    _failures: int = 0
    _opened_at: float = 0.0
    _probing: bool = False

    def permits(self, now: float) -> bool:
        """Whether a call may go. In half open this takes the place of the probe."""
        if self.state == "open" and now >= self._opened_at + self.open_s:
            self.state, self._probing = "half_open", False
        if self.state == "half_open" and not self._probing:
            self._probing = True
            return True
        return self.state == "closed"

    def wait_s(self, now: float) -> float:
        """Seconds until a refused call may be permitted; while a probe is out, a tenth of `open_s`."""
        if self.state == "open":
            return max(0.0, self._opened_at + self.open_s - now)
        return 0.1 * self.open_s

    def succeeded(self) -> None:
        """A permitted call was answered."""
        self.state, self._failures, self._probing = "closed", 0, False

    def failed(self, now: float) -> None:
        """A permitted call failed in a way that says the service is ill."""
        self._failures += 1
        if self.state == "half_open" or self._failures >= self.failures_max:
            self.state, self._opened_at, self._failures, self._probing = "open", now, 0, False

    def abandoned(self) -> None:
        """A permitted call ended without telling anything about the service: cancelled, or given too little time."""
        self._probing = False
