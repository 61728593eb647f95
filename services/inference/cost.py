"""The cost of a batch in seconds, used for batching, and the throughput of a queue, used for admission.

    seconds = (overhead_tokens + padded tokens) * seconds_per_token

Fact: on CPUs a run of a transformer has a fixed cost (reading weights, starting some hundred kernels) and a cost for
each token, including padding. The quadratic part of attention is small up to 512 tokens and is left out.
"""

from dataclasses import dataclass
from typing import Final

# Weight of the newest batch in the running mean of the speed, which covers about the last 20 batches.
_NEWEST: Final = 0.05
# The throughput is a mean over about so many tokens: one second of a small model on two cores.
_MEAN_TOKENS: Final = 8192


@dataclass(frozen=True)
class Cost:
    """The cost of a run. `overhead_tokens` is the fixed part, expressed in tokens."""

    overhead_tokens: float
    seconds_per_token: float

    @classmethod
    def fit(cls, short: tuple[int, float], long: tuple[int, float]) -> "Cost":
        """Return the line through two measured runs of one row: (tokens, seconds) each, the second longer."""
        (short_tokens, short_s), (long_tokens, long_s) = short, long
        per_token = max((long_s - short_s) / (long_tokens - short_tokens), 1e-9)
        return cls(max(short_s / per_token - short_tokens, 0.0), per_token)

    def seconds(self, padded_tokens: float) -> float:
        """Return the time of one run with this many tokens, including padding."""
        return (self.overhead_tokens + padded_tokens) * self.seconds_per_token

    def after(self, padded_tokens: int, seconds: float) -> "Cost":
        """Return the cost after one more run: the speed moves a little towards it, the overhead stays."""
        seen = seconds / (self.overhead_tokens + padded_tokens)
        return Cost(self.overhead_tokens, self.seconds_per_token + _NEWEST * (seen - self.seconds_per_token))


@dataclass(frozen=True)
class Throughput:
    """The speed at which a queue empties, including all delays between batches."""

    seconds_per_token: float

    def after(self, tokens: int, seconds: float) -> "Throughput":
        """Return the throughput after so many tokens have left the queue in so many seconds."""
        weight = min(1.0, tokens / _MEAN_TOKENS)
        return Throughput(self.seconds_per_token + weight * (seconds / tokens - self.seconds_per_token))
