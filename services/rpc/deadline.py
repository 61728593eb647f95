"""The deadline of a call, as a value.

Facts: grpc.aio does not pass a deadline on to the calls that a handler makes, and timeouts in `service_config` do not
work (grpc/grpc#40633). Every outgoing call therefore passes `timeout=deadline.timeout_s()`.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any

import grpc
from sluice.errors import DeadlineExpired


@dataclass(frozen=True)
class Deadline:
    """A point in time on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float, *, now: float | None = None) -> "Deadline":
        """Return the deadline that is this many seconds from now."""
        return cls((monotonic() if now is None else now) + seconds)

    @classmethod
    def of(cls, context: "grpc.aio.ServicerContext[Any, Any]", *, default_s: float) -> "Deadline":
        """Return the caller's deadline. It is at most `default_s` seconds away, also if the caller set none."""
        remaining = context.time_remaining()
        return cls.after(default_s if remaining is None else min(remaining, default_s))

    def remaining_s(self, now: float | None = None) -> float:
        """Return the seconds left; negative once the deadline has passed."""
        return self.at - (monotonic() if now is None else now)

    def timeout_s(self) -> float:
        """Return the seconds left, for an outgoing call. Raises DeadlineExpired if there are none."""
        remaining = self.remaining_s()
        if remaining <= 0:
            raise DeadlineExpired("the deadline passed before the next call could start")
        return remaining

    def earlier_by(self, reserve_s: float) -> "Deadline":
        """Return an earlier deadline, which reserves time for later work."""
        return Deadline(self.at - reserve_s)
