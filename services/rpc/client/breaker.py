"""A circuit breaker, which stops calls to a service that keeps failing.

    closed ──failures_max consecutive failures──▶ open
    open ──open_s seconds later──▶ half open: one call passes as a probe, the others are rejected
    half open ──the probe succeeds──▶ closed; it fails ──▶ open; it is abandoned ──▶ half open, another may pass

Rule: no clock and no I/O. Every permitted call ends in exactly one of `record_success`, `record_failure` and
`record_abandonment`.
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass
class Breaker:
    """The circuit breaker of one downstream service."""

    failures_max: int = 5
    """Consecutive failures that open the breaker."""
    open_s: float = 1.0
    """Seconds during which an open breaker rejects calls before it permits a probe."""
    state: State = "closed"
    _failures: int = 0
    _opened_at: float = 0.0
    _probing: bool = False

    def permits(self, now: float) -> bool:
        """Return whether a call may be sent. While half open, this claims the probe."""
        if self.state == "open" and now >= self._opened_at + self.open_s:
            self.state, self._probing = "half_open", False
        if self.state == "half_open" and not self._probing:
            self._probing = True
            return True
        return self.state == "closed"

    def wait_s(self, now: float) -> float:
        """Return the seconds until a rejected call may be permitted; during a probe, a tenth of `open_s`."""
        if self.state == "open":
            return max(0.0, self._opened_at + self.open_s - now)
        return 0.1 * self.open_s

    def record_success(self) -> None:
        """Record that a permitted call was answered."""
        self.state, self._failures, self._probing = "closed", 0, False

    def record_failure(self, now: float) -> None:
        """Record that a permitted call failed in a way that shows the service to be unhealthy."""
        self._failures += 1
        if self.state == "half_open" or self._failures >= self.failures_max:
            self.state, self._opened_at, self._failures, self._probing = "open", now, 0, False

    def record_abandonment(self) -> None:
        """Record that a permitted call says nothing about the service: it was cancelled, or had too little time."""
        self._probing = False
