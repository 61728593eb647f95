"""Laws of shorter, quantized, binary and joined vectors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from services.core.representation import binarize, join_windows, prefix, quantize_int8

F32 = NDArray[np.float32]
VECTORS = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 20)), elements=st.floats(-10, 10, width=32))


@given(VECTORS)
def test_int8_is_within_half_a_step_of_the_vector(vectors: F32) -> None:
    integers, scales = quantize_int8(vectors)
    assert integers.dtype == np.int8
    assert np.all(np.abs(integers * scales[:, None] - vectors) <= scales[:, None] * 0.501)


@given(VECTORS)
def test_a_row_of_int8_does_not_depend_on_other_rows(vectors: F32) -> None:
    together, scales = quantize_int8(vectors)
    for position, vector in enumerate(vectors):
        alone, scale = quantize_int8(vector[None])
        assert np.array_equal(alone[0], together[position])
        assert scale[0] == scales[position]


@given(VECTORS)
def test_bits_are_the_signs(vectors: F32) -> None:
    bits = np.unpackbits(binarize(vectors), axis=1, count=vectors.shape[1])
    assert np.array_equal(bits == 1, vectors > 0)


def test_a_prefix_has_unit_length_again() -> None:
    vectors = np.array([[3, 4, 12], [0, 0, 1]], dtype=np.float32)
    np.testing.assert_allclose(prefix(vectors, 2, unit_length=True), [[0.6, 0.8], [0.0, 0.0]])
    np.testing.assert_array_equal(prefix(vectors, 2, unit_length=False), [[3, 4], [0, 0]])


def test_windows_join_by_tokens_or_by_the_largest() -> None:
    windows = np.array([[1, 0], [0, 1]], dtype=np.float32)
    counts = np.array([30, 10])
    np.testing.assert_allclose(join_windows(windows, counts, "mean", unit_length=False), [0.75, 0.25])
    np.testing.assert_allclose(join_windows(windows, counts, "max", unit_length=True), [2**-0.5, 2**-0.5])
