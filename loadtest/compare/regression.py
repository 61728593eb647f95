"""Decision whether one version is slower than another, from paired runs. Pure.

Machines drift and other processes add noise, so only runs made right after each other are compared. The figure is the
median ratio of the pairs, and a difference counts only if its whole confidence interval is beyond the tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Verdict = Literal["slower", "faster", "no difference shown"]

_SAMPLES: Final = 10_000
_SEED: Final = 1


@dataclass(frozen=True)
class SpeedComparison:
    """The ratios new ÷ old of speeds: over 1 is faster."""

    ratio: float
    """Median ratio."""
    low: float
    high: float
    """Ends of its 95 % interval, by bootstrap over pairs."""
    verdict: Verdict


def judge(ratios: Sequence[float], tolerance: float) -> SpeedComparison:
    """Judge paired ratios of speeds. A change within `tolerance` (0.05 is a twentieth) is no difference."""
    values = np.array(ratios)
    chance = np.random.default_rng(_SEED)
    medians = np.median(values[chance.integers(len(values), size=(_SAMPLES, len(values)))], axis=1)
    low, high = (float(end) for end in np.percentile(medians, (2.5, 97.5)))
    verdict: Verdict = "no difference shown"
    if high < 1 - tolerance:
        verdict = "slower"
    elif low > 1 + tolerance:
        verdict = "faster"
    return SpeedComparison(float(np.median(values)), low, high, verdict)
