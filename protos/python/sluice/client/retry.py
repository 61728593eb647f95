"""Decisions on retries of failed calls.

Rule: pure; `now` and `jitter` are arguments. Only UNAVAILABLE is retried (AIP-194), because nothing was done and
another replica may respond.
"""

from dataclasses import dataclass

from sluice.errors import SluiceError, Unavailable


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is retried, and with which waits."""

    attempts: int = 5
    """Most attempts of a call, the first one included."""
    initial_s: float = 0.05
    """Longest wait before the second attempt, in seconds. It doubles with each further attempt."""
    max_s: float = 2.0
    """Longest wait, in seconds, in addition to the wait that the server asks for."""

    def wait_s(self, tried: int, *, asked_s: float | None, jitter: float) -> float:
        """Return the seconds to wait after `tried` attempts: those that the server asks for, plus a random backoff.

        jitter  random number from 0 to 1, so that clients that failed together do not retry together
        """
        backoff = min(self.max_s, self.initial_s * 2.0 ** (tried - 1))
        return (asked_s or 0.0) + backoff * jitter


class Throttle:
    """A limit on the retries of a client while most of its calls fail, so that retries do not overload servers.

    A failure takes a token, and a success adds a tenth of one. Retries are allowed above half of the tokens.
    Source: gRFC A6, retry throttling.
    """

    def __init__(self, max_tokens: float = 10.0) -> None:
        self._max_tokens = max_tokens
        self._tokens = max_tokens

    def succeeded(self) -> None:
        """Record a successful call."""
        self._tokens = min(self._max_tokens, self._tokens + 0.1)

    def failed(self) -> bool:
        """Record a call that got UNAVAILABLE. Return whether it may be retried."""
        self._tokens = max(0.0, self._tokens - 1.0)
        return self._tokens > self._max_tokens / 2


class Attempts:
    """The attempts of one call, until a deadline on the monotonic clock. All calls of a client share its throttle."""

    def __init__(self, policy: RetryPolicy, throttle: Throttle | None, *, deadline: float) -> None:
        self._policy = policy
        self._throttle = throttle
        self._deadline = deadline
        self._tried = 0
        self.last: SluiceError | None = None
        """Error of the last attempt."""

    def remaining_s(self, now: float) -> float:
        """Return the seconds left for the next attempt, at least 0."""
        return max(0.0, self._deadline - now)

    def failed(self, error: SluiceError, *, now: float, jitter: float) -> float:
        """Return the seconds to wait before the next attempt. Raises `error` if there is none, or no time for one."""
        self._tried += 1
        self.last = error
        if isinstance(error, Unavailable):
            is_allowed = self._throttle is None or self._throttle.failed()
            wait_s = self._policy.wait_s(self._tried, asked_s=error.retry_after_s, jitter=jitter)
            if is_allowed and self._tried < self._policy.attempts and wait_s < self.remaining_s(now):
                return wait_s
        raise error from None  # The error of gRPC contains no more information.

    def succeeded(self) -> None:
        """Record the success."""
        if self._throttle:
            self._throttle.succeeded()
