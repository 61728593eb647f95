"""Similarities of vectors, in one definition that all stages and tests use.

Rule: a score depends only on the query and the document, not on other documents in the same array. Products are summed
in float64 and rounded to float32 once, so equal documents have equal scores at any position. BLAS in float32 does not
guarantee that. Higher scores are better.
"""

from typing import Final

import numpy as np

from services.core.arrays import F16, F32, F64, I64

# Rows that are converted at a time: 2,048 rows of 8,192 float64 are 128 MiB, of 384 they are 6 MiB.
_ROWS: Final = 2048


def dot(query: F32, documents: F32) -> F32:
    """Return the inner product of a query with each document.

    query      float32[D]
    documents  float32[N, D]
    returns    float32[N]
    """
    scores = np.empty(len(documents), dtype=np.float32)
    wide = query.astype(np.float64)
    for start in range(0, len(documents), _ROWS):
        rows = documents[start : start + _ROWS].astype(np.float64)
        scores[start : start + _ROWS] = np.einsum("nd,d->n", rows, wide)
    return scores


def cosine(query: F32, documents: F32) -> F32:
    """Return the cosine of the angle between a query and each document, -1 to 1.

    query      float32[D], not zero
    documents  float32[N, D], no row zero
    returns    float32[N]
    """
    return np.clip(dot(unit(query[None])[0], unit(documents)), -1.0, 1.0)


def l2(query: F32, documents: F32) -> F32:
    """Return the negative squared Euclidean distance of a query to each document.

    query      float32[D]
    documents  float32[N, D]
    returns    float32[N], at most 0
    """
    scores = np.empty(len(documents), dtype=np.float32)
    wide = query.astype(np.float64)
    for start in range(0, len(documents), _ROWS):
        differences = documents[start : start + _ROWS].astype(np.float64) - wide
        scores[start : start + _ROWS] = -np.einsum("nd,nd->n", differences, differences)
    return scores


def unit(vectors: F32) -> F32:
    """Return the vectors at unit length. A zero vector stays zero.

    vectors  float32[N, D]
    returns  float32[N, D]
    """
    lengths = norms(vectors)
    lengths[lengths == 0.0] = 1.0
    return (vectors / lengths[:, None]).astype(np.float32)


def norms(vectors: F32) -> F64:
    """Return the Euclidean length of each vector, in float64 so that no finite float32 overflows.

    vectors  float32[N, D]
    returns  float64[N]
    """
    lengths = np.empty(len(vectors), dtype=np.float64)
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS].astype(np.float64)
        lengths[start : start + _ROWS] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return lengths


def maxsim(query: F32, tokens: F32 | F16, counts: I64) -> F32:
    """Return the late-interaction score of a query with each document.

    score[n] = sum over q of max over t of query[q] . tokens of document n[t]

    query    float32[Q, D]
    tokens   float32 or float16 [sum(counts), D], the tokens of all documents one after another
    counts   int64[N], tokens of each document; a document without tokens scores -inf
    returns  float32[N]
    Source: Khattab and Zaharia, ColBERT, SIGIR 2020, equation 3.
    """
    scores = np.full(len(counts), -np.inf, dtype=np.float32)
    # reduceat returns the first element for an empty range, so documents without tokens are left out.
    has_tokens = counts > 0
    if has_tokens.any():
        products = tokens.astype(np.float64) @ query.T.astype(np.float64)
        starts = (np.cumsum(counts) - counts)[has_tokens]
        scores[has_tokens] = np.maximum.reduceat(products, starts, axis=0).sum(axis=1)
    return scores
