"""Late interaction of a query with documents that have different numbers of token vectors."""

from collections.abc import Sequence

import numpy as np

from services.core.arrays import F32


def mean_maxsim(query: F32, documents: Sequence[F32]) -> F32:
    """Return the mean over query tokens of the highest cosine to a token of each document, -1 to 1.

    score[n] = mean over q of max over t of query[q] . documents[n][t]

    This is MaxSim divided by the number of query tokens, so that scores of queries of different lengths are comparable.

    query      float32[Q, D], rows of unit length
    documents  N arrays float32[T, D], rows of unit length; T may differ, and a document without tokens scores -1
    returns    float32[N]; all -1 for a query without tokens
    Source: Khattab and Zaharia, ColBERT, SIGIR 2020, equation 3.
    """
    counts = np.array([len(document) for document in documents])
    scores = np.full(len(documents), -1.0, dtype=np.float32)
    filled = counts > 0
    if len(query) and filled.any():
        tokens = np.concatenate([document for document in documents if len(document)])
        starts = np.cumsum(counts[filled]) - counts[filled]
        scores[filled] = np.maximum.reduceat(query @ tokens.T, starts, axis=1).mean(axis=0)
    return scores
