"""numpy arrays to and from `Tensor`: exact, checked, and without a copy where numpy allows it."""

from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sluice.common.v1 import tensor_pb2 as pb

from services.rpc.validation import Violations

_DTYPES: Final[dict[pb.DataType.ValueType, np.dtype[Any]]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_INT8: np.dtype("i1"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
}
_TYPES: Final = {dtype: data_type for data_type, dtype in _DTYPES.items()}


def to_tensor(array: NDArray[Any]) -> pb.Tensor:
    """The tensor of a float32, float16, int8 or int32 array of any shape."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return pb.Tensor(data_type=_TYPES[little.dtype], shape=little.shape, data=little.tobytes())


def matrix(tensor: pb.Tensor, *, field: str, rows: int, columns: int, violations: Violations) -> NDArray[np.float32]:
    """The float32 [rows, columns] array of a tensor, sharing its memory and read-only.

    What does not fit (type, shape, size, NaN, infinity) is noted under `field`, and zeros of the right shape are
    returned.
    """
    problem = _problem(tensor, (rows, columns))
    if problem is None:
        array: NDArray[np.float32] = np.frombuffer(tensor.data, dtype="<f4").reshape(rows, columns)
        finite = np.isfinite(array).all(axis=1)
        if finite.all():
            return array
        problem = f"expected finite numbers, got NaN or infinity in row {int(np.argmin(finite))}"
    violations.add(field, problem)
    return np.zeros((rows, columns), dtype=np.float32)


def vector(tensor: pb.Tensor, *, field: str, length: int, violations: Violations) -> NDArray[np.float32]:
    """The float32 [length] array of a tensor; what does not fit is noted as `matrix` does."""
    problem = _problem(tensor, (length,))
    if problem is None:
        array: NDArray[np.float32] = np.frombuffer(tensor.data, dtype="<f4")
        if np.isfinite(array).all():
            return array
        problem = "expected finite numbers, got NaN or infinity"
    violations.add(field, problem)
    return np.zeros(length, dtype=np.float32)


def _problem(tensor: pb.Tensor, expected: tuple[int, ...]) -> str | None:
    """What is wrong with type, shape or size; None when nothing is."""
    given = tuple(tensor.shape)
    if tensor.data_type != pb.DATA_TYPE_FLOAT32:
        return f"expected FLOAT32, got {pb.DataType.Name(tensor.data_type).removeprefix('DATA_TYPE_')}"
    if given != expected:
        return f"expected shape {list(expected)}, got {list(given)}"
    if len(tensor.data) != 4 * prod(expected):
        return f"expected {4 * prod(expected):,} bytes for shape {list(expected)}, got {len(tensor.data):,}"
    return None
