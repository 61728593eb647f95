"""Retries: a budget that keeps them from becoming the load, and a random wait that spreads them out.

Rule: no clock and no randomness of its own.
"""

from dataclasses import dataclass
from typing import Final

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 1.0


@dataclass
class RetryBudget:
    """The retries that may still be sent: a share of the successful calls, saved up to a maximum.

    Source: Finagle's RetryBudget; gRPC A6, retry throttling.
    """

    ratio: float = 0.1
    """Retries that one answered call earns."""
    saved_max: float = 10.0
    """Most retries that can be saved; also the initial number."""
    saved: float = 10.0

    def earn(self) -> None:
        """Record an answered call."""
        self.saved = min(self.saved_max, self.saved + self.ratio)

    def spend(self) -> bool:
        """Take one retry. Return whether there was one."""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True


def wait_s(attempt: int, *, chance: float, asked_s: float | None = None) -> float:
    """Return the seconds to wait before a retry: a random share of a doubling time, and at least `asked_s`.

        attempt  failed attempts so far, from 1
        chance   random number, 0 to 1
        asked_s  RetryInfo of the rejection

    Source: Brooker, Exponential Backoff And Jitter, 2015: "full jitter".
    """
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 10))
    return max(chance * longest, asked_s or 0.0)
