"""What a batch costs, in seconds, which batching decides by; and how fast a queue empties, which admission decides by.

    seconds = (overhead_tokens + padded tokens) * seconds_per_token

Fact: on CPUs a run of a transformer costs a fixed part (reading weights, launching some hundred kernels) and a part
for each token, padding included. Attention's quadratic part is small up to 512 tokens and is left out.
"""

from dataclasses import dataclass
from typing import Final

# Weight of the newest batch in the running mean of speed: about the last 20 batches count.
_NEWEST: Final = 0.05
# The pace is a mean over about so many tokens: a second of a small model on two cores.
_MEAN_TOKENS: Final = 8192


@dataclass(frozen=True)
class Cost:
    """Cost of a run. `overhead_tokens` is the fixed part, counted in tokens' worth of time."""

    overhead_tokens: float
    seconds_per_token: float

    @classmethod
    def fit(cls, short: tuple[int, float], long: tuple[int, float]) -> "Cost":
        """The line through two measured runs of one row: (tokens, seconds) each, the second longer."""
        (short_tokens, short_s), (long_tokens, long_s) = short, long
        per_token = max((long_s - short_s) / (long_tokens - short_tokens), 1e-9)
        return cls(max(short_s / per_token - short_tokens, 0.0), per_token)

    def seconds(self, padded_tokens: float) -> float:
        """Time of one run over this many tokens, padding included."""
        return (self.overhead_tokens + padded_tokens) * self.seconds_per_token

    def after(self, padded_tokens: int, seconds: float) -> "Cost":
        """The cost with one more run seen: speed moves a little towards it, the overhead stays."""
        seen = seconds / (self.overhead_tokens + padded_tokens)
        return Cost(self.overhead_tokens, self.seconds_per_token + _NEWEST * (seen - self.seconds_per_token))


@dataclass(frozen=True)
class Throughput:
    """How fast a queue empties: all that stands between batches counts, not only the model's own time."""

    seconds_per_token: float

    def after(self, tokens: int, seconds: float) -> "Throughput":
        """The pace when these tokens have left the queue in so long."""
        weight = min(1.0, tokens / _MEAN_TOKENS)
        return Throughput(self.seconds_per_token + weight * (seconds / tokens - self.seconds_per_token))
