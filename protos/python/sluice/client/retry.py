"""When a failed call is tried again.

Rule: no waiting and no clock here; `now` and `jitter` are arguments.
Only UNAVAILABLE is tried again (AIP-194): nothing was done, and another replica may answer.
"""

from dataclasses import dataclass

from sluice.errors import SluiceError, Unavailable


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a call is tried."""

    attempts: int = 5
    """Most tries of one call, the first one included."""
    initial_s: float = 0.05
    """Longest wait before the second try, in seconds; doubled before each further one."""
    max_s: float = 2.0
    """Longest wait, in seconds, on top of what the server asked for."""

    def wait_s(self, tried: int, *, asked_s: float | None, jitter: float) -> float:
        """Seconds to wait after so many tries: what the server asked for, plus a random part of the backoff.

        jitter  0 to 1, so that clients that failed together do not return together
        """
        backoff = min(self.max_s, self.initial_s * 2.0 ** (tried - 1))
        return (asked_s or 0.0) + backoff * jitter


class Throttle:
    """Stops retries of a client while most of its calls fail, so that retries cannot become the load.

    A failure takes a token, a success gives a tenth back; above half of them retries are allowed.
    Source: gRFC A6, retry throttling.
    """

    def __init__(self, max_tokens: float = 10.0) -> None:
        self._max_tokens = max_tokens
        self._tokens = max_tokens

    def succeeded(self) -> None:
        """Note a call that got an answer."""
        self._tokens = min(self._max_tokens, self._tokens + 0.1)

    def failed(self) -> bool:
        """Note a call that got UNAVAILABLE; True when it may be tried again."""
        self._tokens = max(0.0, self._tokens - 1.0)
        return self._tokens > self._max_tokens / 2


class Attempts:
    """The tries of one call, up to a moment on the monotonic clock; all of a client's calls share its throttle."""

    def __init__(self, policy: RetryPolicy, throttle: Throttle | None, *, deadline: float) -> None:
        self._policy = policy
        self._throttle = throttle
        self._deadline = deadline
        self._tried = 0
        self.last: SluiceError | None = None
        """Why the last try failed."""

    def remaining_s(self, now: float) -> float:
        """Seconds left for the next try; never negative."""
        return max(0.0, self._deadline - now)

    def failed(self, error: SluiceError, *, now: float, jitter: float) -> float:
        """Seconds to wait before the next try. Raises `error` when there must be none, or no time for one."""
        self._tried += 1
        self.last = error
        if isinstance(error, Unavailable):
            is_allowed = self._throttle is None or self._throttle.failed()
            wait_s = self._policy.wait_s(self._tried, asked_s=error.retry_after_s, jitter=jitter)
            if is_allowed and self._tried < self._policy.attempts and wait_s < self.remaining_s(now):
                return wait_s
        raise error from None  # gRPC's own error says nothing more

    def succeeded(self) -> None:
        """Note the answer."""
        if self._throttle:
            self._throttle.succeeded()
