"""BM25 in the form of Lucene: how much a document that has a word says about a query with it."""

from math import log

import numpy as np

from services.core.arrays import F32, F64


def idf(document_count: int, having: int) -> float:
    """How much a word tells that `having` of `document_count` documents have; never negative.

    Source: Kamphuis et al., Which BM25 do you mean?, ECIR 2020, the Lucene variant.
    """
    return log(1 + (document_count - having + 0.5) / (having + 0.5))


def saturation(counts: F32, lengths: F32, mean_length: float, *, k1: float, b: float) -> F64:
    """What the word's count in each document is worth, 0 to 1: more of it counts less and less, more so in long ones.

    counts   float32[N], how often the word is in each document
    lengths  float32[N], words in each document
    returns  float64[N]
    """
    wide = counts.astype(np.float64)
    return wide / (wide + k1 * (1 - b + b * lengths / mean_length))
