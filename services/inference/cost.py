"""The cost of a batch in seconds, used for batching, and the throughput of a queue, used for admission.

    effective tokens = padded tokens + quadratic * sum of squared padded lengths
    seconds          = (overhead_tokens + effective tokens) * seconds_per_token

Fact: on CPUs a run of a transformer has a fixed cost (reading weights, starting some hundred kernels), a cost for each
token, including padding, and a cost for each pair of tokens of a row, which is that of attention. In a model of
MiniLM's size, attention is a tenth of the time of 128 tokens, and two thirds of that of 2,048 (loadtest/BENCHMARKS.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import mul
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

# Weight of the newest batch in the running mean of the speed, which covers about the last 20 batches.
_NEWEST: Final = 0.05
# The throughput is a mean over about so many tokens: one second of a small model on two cores.
_MEAN_TOKENS: Final = 8192
# A speed that no machine reaches, for runs of equal duration.
_LEAST_SECONDS_PER_TOKEN: Final = 1e-9
# The parts of a cost that are not zero: 0 is the fixed part, 1 that of a token, 2 that of a pair. The last two choices
# need three runs.
_CHOICES: Final = ((1,), (0, 1), (1, 2), (0, 1, 2))


@dataclass(frozen=True, slots=True)
class Size:
    """The size of rows: what their cost depends on."""

    tokens: int = 0
    squares: int = 0
    """Sum of the squared lengths."""

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Self:
        """Return the size of rows of these lengths, without padding."""
        given = list(lengths)
        return cls(sum(given), sum(map(mul, given, given)))

    @classmethod
    def of_batch(cls, rows: int, longest: int) -> Self:
        """Return the size of a batch whose rows are padded to the longest."""
        return cls(rows * longest, rows * longest * longest)

    def __add__(self, other: "Size") -> "Size":
        return Size(self.tokens + other.tokens, self.squares + other.squares)

    def __sub__(self, other: "Size") -> "Size":
        return Size(self.tokens - other.tokens, self.squares - other.squares)


@dataclass(frozen=True)
class Cost:
    """The cost of a run."""

    overhead_tokens: float
    """The fixed part, expressed in tokens."""
    seconds_per_token: float
    quadratic: float = 0.0
    """Tokens that a pair of tokens of a row costs as much as."""

    @classmethod
    def fit(cls, *runs: tuple[int, float]) -> Self:
        """Return the cost that predicts measured runs of one row best: (tokens, seconds) each, of different lengths.

        The fit is by least squares of relative errors, without negative parts. Two runs give no quadratic part.
        """
        tokens, seconds = np.array(runs, dtype=np.float64).T
        terms = np.stack([np.ones_like(tokens), tokens, tokens**2]) / seconds
        fits = [_fit(terms, chosen) for chosen in _CHOICES[: 4 if len(runs) > 2 else 2]]
        fixed, per_token, per_pair = min(fits, key=lambda fit: _error(terms, fit)).tolist()
        return cls(fixed / per_token, per_token, per_pair / per_token)

    def effective_tokens(self, size: Size) -> float:
        """Return the tokens that rows of this size cost, without the fixed part."""
        return size.tokens + self.quadratic * size.squares

    def seconds(self, size: Size) -> float:
        """Return the time of one run of this size, which includes padding."""
        return (self.overhead_tokens + self.effective_tokens(size)) * self.seconds_per_token

    def after(self, size: Size, seconds: float) -> "Cost":
        """Return the cost after one more run: the speed moves a little towards it, the other parts stay."""
        seen = seconds / (self.overhead_tokens + self.effective_tokens(size))
        return replace(self, seconds_per_token=self.seconds_per_token + _NEWEST * (seen - self.seconds_per_token))


@dataclass(frozen=True)
class Throughput:
    """The speed at which a queue empties, including all delays between batches."""

    seconds_per_token: float
    """Seconds per effective token."""

    def after(self, tokens: float, seconds: float) -> "Throughput":
        """Return the throughput after so many effective tokens have left the queue in so many seconds."""
        weight = min(1.0, tokens / _MEAN_TOKENS)
        return Throughput(self.seconds_per_token + weight * (seconds / tokens - self.seconds_per_token))


def _fit(terms: F64, chosen: tuple[int, ...]) -> F64:
    """Return the parts [3] for which `parts @ terms` [runs] is nearest to 1, all but the chosen ones 0."""
    parts = np.zeros(len(terms))
    parts[list(chosen)] = np.linalg.lstsq(terms[list(chosen)].T, np.ones(terms.shape[1]), rcond=None)[0]
    parts[1] = max(parts[1], _LEAST_SECONDS_PER_TOKEN)
    return parts


def _error(terms: F64, parts: F64) -> float:
    """Return the squared relative error of a fit; infinite if a part is negative."""
    return float("inf") if parts.min() < 0 else float(((parts @ terms - 1) ** 2).sum())
