"""When to try again: a budget, so that retries never become the load, and a wait, so that they do not come at once.

Rule: no clock and no randomness of its own.
"""

from dataclasses import dataclass
from typing import Final

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 1.0


@dataclass
class RetryBudget:
    """Retries that may still be sent: a share of the calls that went well, saved up to a maximum.

    Source: Finagle's RetryBudget; gRPC A6, retry throttling.
    """

    ratio: float = 0.1
    """Retries that one answered call earns."""
    saved_max: float = 10.0
    """Most that can be saved; also what there is at the start."""
    saved: float = 10.0

    def earn(self) -> None:
        """A call was answered."""
        self.saved = min(self.saved_max, self.saved + self.ratio)

    def spend(self) -> bool:
        """Take one retry; False when there is none."""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True


def wait_s(attempt: int, *, chance: float, asked_s: float | None = None) -> float:
    """Seconds to wait before trying again: a random part of a doubling time, and never less than the server asked.

    attempt  tries that failed so far, from 1
    chance   random number, 0 to 1
    asked_s  RetryInfo of the refusal
    Source: Brooker, Exponential Backoff And Jitter, 2015: "full jitter".
    """
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 10))
    return max(chance * longest, asked_s or 0.0)
