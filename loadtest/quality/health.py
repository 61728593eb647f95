"""Signs of unhealthy embeddings that need no judgments. Pure.

Rule: these are warnings, not verdicts. Compare a model with itself: another checkpoint, 8 bits, a shorter prefix.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_PAIRS: Final = 200_000
_SEED: Final = 1


def effective_rank(vectors: F32) -> float:
    """Return RankMe: how many dimensions the vectors [N, D] really use, 1 to min(N, D).

    exp of the entropy of the normalized singular values. Source: Garrido et al., RankMe, ICML 2023, equation 1.
    """
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-12
    return float(np.exp(-(shares * np.log(shares)).sum()))


def uniformity(vectors: F32) -> float:
    """Return how evenly unit vectors [N, D] cover the sphere: lower is more even, 0 if all are equal.

    log of the mean of exp(-2 |x - y|^2) over random pairs. Source: Wang and Isola, ICML 2020.
    """
    chance = np.random.default_rng(_SEED)
    first, second = chance.integers(len(vectors), size=(2, _PAIRS))
    differ = first != second
    cosines = np.einsum("nd,nd->n", vectors[first[differ]], vectors[second[differ]])
    return float(np.log(np.exp(-2 * (2 - 2 * cosines.astype(np.float64))).mean()))


def hubness(queries: F32, documents: F32, k: int = 10) -> float:
    """Return how unevenly documents are retrieved: skewness of how often each is among a query's k nearest.

    0 is even; far over 1, a few hubs are found for everything. Source: Radovanovic et al., JMLR 2010.

    queries    float32[Q, D]
    documents  float32[N, D], N over k
    """
    nearest = np.argpartition(-(queries @ documents.T), k, axis=1)[:, :k]
    counts = np.bincount(nearest.ravel(), minlength=len(documents)).astype(np.float64)
    spread = counts.std()
    return float((((counts - counts.mean()) / spread) ** 3).mean()) if spread else 0.0


def nearer_half(queries: F32, training: F32) -> NDArray[np.bool_]:
    """Return which queries [Q, D] lie nearer to a training query [T, D] than the median does.

    These are answered by interpolation, the others by extrapolation.
    Source: Zhan et al., Evaluating Interpolation and Extrapolation Performance of Neural Retrieval Models, CIKM 2022.
    """
    nearest = (queries @ training.T).max(axis=1)
    result: NDArray[np.bool_] = nearest > np.median(nearest)
    return result
