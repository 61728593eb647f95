"""Conversion of dense vectors: shorter, quantized, binary, or joined from several windows."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.core.arrays import F32
from services.core.similarity import unit

Aggregation = Literal["mean", "max"]


def prefix(vectors: F32, dimensions: int, *, unit_length: bool) -> F32:
    """Return the first dimensions of vectors of a Matryoshka model, scaled to unit length if `unit_length`.

    vectors  float32[N, D]
    returns  float32[N, dimensions]
    Source: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022.
    """
    cut = vectors[:, :dimensions]
    return unit(cut) if unit_length else cut


def quantize_int8(vectors: F32) -> tuple[NDArray[np.int8], F32]:
    """Quantize each row to 8-bit integers and a scale: vector ~ integers * scale.

    scale = largest magnitude of the row / 127, or 1 for a row of zeros. A row does not depend on other rows.

    vectors  float32[N, D]
    returns  int8[N, D], float32[N]
    """
    scales = np.abs(vectors).max(axis=1) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def binarize(vectors: F32) -> NDArray[np.uint8]:
    """Return the signs of each row: bit 1 for a positive value, most significant bit first, padded to whole bytes.

    vectors  float32[N, D]
    returns  uint8[N, ceil(D / 8)]
    """
    return np.packbits(vectors > 0, axis=1)


def join_windows(vectors: F32, token_counts: NDArray[np.int64], aggregation: Aggregation, *, unit_length: bool) -> F32:
    """Return the vector of a text from those of its windows: the mean weighted by tokens, or the maximum per dimension.

    vectors       float32[W, D], one for each window
    token_counts  int64[W]
    returns       float32[D], of unit length if `unit_length`
    """
    if aggregation == "max":
        joined: F32 = vectors.max(axis=0)
    else:
        joined = np.average(vectors, axis=0, weights=token_counts).astype(np.float32)
    return unit(joined[None])[0] if unit_length else joined
