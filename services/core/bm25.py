"""BM25 in the variant of Lucene."""

from math import log

import numpy as np

from services.core.arrays import F32, F64


def idf(document_count: int, matching_count: int) -> float:
    """Return the inverse document frequency of a word that is in `matching_count` of `document_count` documents.

    It is never negative.
    Source: Kamphuis et al., Which BM25 do you mean?, ECIR 2020, the Lucene variant.
    """
    return log(1 + (document_count - matching_count + 0.5) / (matching_count + 0.5))


def saturation(counts: F32, lengths: F32, mean_length: float, *, k1: float, b: float) -> F64:
    """Return the saturated frequency of a word in each document, from 0 to 1.

    Each further occurrence adds less, and occurrences in long documents add less than in short ones.

    counts   float32[N], occurrences of the word in each document
    lengths  float32[N], words of each document
    returns  float64[N]
    """
    wide = counts.astype(np.float64)
    return wide / (wide + k1 * (1 - b + b * lengths / mean_length))
