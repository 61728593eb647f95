"""A deadline as a value.

Facts: grpc.aio does not pass a deadline on to the calls a handler makes, and `service_config` timeouts are broken
(grpc/grpc#40633), so every outgoing call passes `timeout=deadline.remaining_s(now)` by hand.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any

import grpc
from sluice.errors import DeadlineExpired


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float, *, now: float | None = None) -> "Deadline":
        """The deadline this many seconds from now."""
        return cls((monotonic() if now is None else now) + seconds)

    @classmethod
    def of(cls, context: "grpc.aio.ServicerContext[Any, Any]", *, default_s: float) -> "Deadline":
        """The caller's deadline, never further away than `default_s`, which is also used when there is none."""
        remaining = context.time_remaining()
        return cls.after(default_s if remaining is None else min(remaining, default_s))

    def remaining_s(self, now: float | None = None) -> float:
        """Seconds left; negative when it has passed."""
        return self.at - (monotonic() if now is None else now)

    def timeout_s(self) -> float:
        """Seconds left, for an outgoing call. Raises DeadlineExpired when there are none."""
        remaining = self.remaining_s()
        if remaining <= 0:
            raise DeadlineExpired("the deadline passed before the next call could start")
        return remaining

    def earlier_by(self, reserve_s: float) -> "Deadline":
        """The deadline moved forward, to keep time for what comes after."""
        return Deadline(self.at - reserve_s)
