"""Other forms of dense vectors: shorter, smaller, joined. Array in, array out."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import F32
from services.core.similarity import unit

Aggregation = Literal["mean", "max"]


def prefix(vectors: F32, dimensions: int, *, unit_length: bool) -> F32:
    """The first dimensions of vectors trained for it, made unit length again when they were.

    vectors  float32[N, D]
    returns  float32[N, dimensions]
    Source: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022.
    """
    cut = vectors[:, :dimensions]
    return unit(cut) if unit_length else cut


def quantize_int8(vectors: F32) -> tuple[NDArray[np.int8], F32]:
    """Each row as 8-bit integers and the scale that gives it back: vector ~ integers * scale.

    scale = largest magnitude of the row / 127, so a row does not depend on the rows beside it; 1 for a row of zeros.

    vectors  float32[N, D]
    returns  int8[N, D], float32[N]
    """
    scales = np.abs(vectors).max(axis=1) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def binarize(vectors: F32) -> NDArray[np.uint8]:
    """The signs of each row: bit 1 for a positive value, most significant bit first, rows padded to whole bytes.

    vectors  float32[N, D]
    returns  uint8[N, ceil(D / 8)]
    """
    return np.packbits(vectors > 0, axis=1)


def join_windows(vectors: F32, token_counts: NDArray[np.int64], aggregation: Aggregation, *, unit_length: bool) -> F32:
    """One vector for a text that was read in windows: the mean weighted by tokens, or the largest of each dimension.

    vectors       float32[W, D], one a window
    token_counts  int64[W]
    returns       float32[D], unit length when asked for
    """
    if aggregation == "max":
        joined: F32 = vectors.max(axis=0)
    else:
        joined = np.average(vectors, axis=0, weights=token_counts).astype(np.float32)
    return unit(joined[None])[0] if unit_length else joined
