"""Selection of the highest scores."""

from collections.abc import Sequence

import numpy as np

from services.core.arrays import F32, I64


def top_k(scores: F32, ids: Sequence[str], k: int) -> I64:
    """Return the positions of the k highest scores, best first. Equal scores are ordered by id, so results are stable.

    scores   float32[N], none NaN
    ids      N unique ids, in the order of the scores
    returns  int64[min(k, N)]
    """
    candidates = at_least_kth(scores, k)
    order = sorted(candidates.tolist(), key=lambda position: (-scores[position], ids[position]))
    return np.array(order[:k], dtype=np.int64)


def at_least_kth(scores: F32, k: int, *, slack: float = 0.0) -> I64:
    """Return the ascending positions of all scores that are at least the k-th highest minus `slack`: k and all ties.

    scores   float32[N], none NaN
    returns  int64[at least min(k, N)]
    """
    if k >= len(scores):
        return np.arange(len(scores), dtype=np.int64)
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth - np.float32(slack)).astype(np.int64)
