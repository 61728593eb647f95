"""Conversion between numpy arrays and `Tensor` messages: exact, validated, and without a copy where numpy allows it."""

from collections.abc import Sequence
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
    """Return the tensor of a float32, float16, int8 or int32 array of any shape."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return pb.Tensor(data_type=_TYPES[little.dtype], shape=little.shape, data=little.tobytes())


def matrix(tensor: pb.Tensor, *, field: str, rows: int, columns: int, violations: Violations) -> NDArray[np.float32]:
    """Return the float32 [rows, columns] array of a tensor: read-only, and sharing its memory.

    If type, shape or size are wrong, or a number is NaN or infinite, add a violation for `field` and return zeros.
    """
    array = checked(tensor, field=field, shape=(rows, columns), violations=violations)
    return np.zeros((rows, columns), dtype=np.float32) if array is None else array


def checked(
    tensor: pb.Tensor,
    *,
    field: str,
    shape: tuple[int, ...],
    violations: Violations,
    data_types: Sequence[pb.DataType.ValueType] = (pb.DATA_TYPE_FLOAT32,),
) -> NDArray[Any] | None:
    """Return the array of a tensor of this shape and one of these types: read-only, and sharing its memory.

    If type, shape or size are wrong, or a number is NaN or infinite, add a violation for `field` and return None.
    """
    problem = _problem(tensor, shape, data_types)
    if problem is None:
        array: NDArray[Any] = np.frombuffer(tensor.data, dtype=_DTYPES[tensor.data_type]).reshape(shape)
        problem = _not_finite(array)
        if problem is None:
            return array
    violations.add(field, problem)
    return None


def _not_finite(array: NDArray[Any]) -> str | None:
    """Return where NaN or infinity was found; None if all numbers are finite."""
    finite = np.isfinite(array)
    if finite.all():
        return None
    where = f" in row {int(np.argmin(finite.all(axis=1)))}" if array.ndim == 2 else ""
    return f"expected finite numbers, got NaN or infinity{where}"


def _problem(tensor: pb.Tensor, expected: tuple[int, ...], data_types: Sequence[pb.DataType.ValueType]) -> str | None:
    """Return what is wrong with the type, shape or size; None if nothing is."""
    given = tuple(tensor.shape)
    if tensor.data_type not in data_types:
        return f"expected {' or '.join(map(type_name, data_types))}, got {type_name(tensor.data_type)}"
    if given != expected:
        return f"expected shape {list(expected)}, got {list(given)}"
    size = prod(expected) * _DTYPES[tensor.data_type].itemsize
    if len(tensor.data) != size:
        return f"expected {size:,} bytes for shape {list(expected)}, got {len(tensor.data):,}"
    return None


def type_name(data_type: pb.DataType.ValueType) -> str:
    """Return the name of a data type, such as FLOAT32 for DATA_TYPE_FLOAT32, or the number of an unknown one."""
    known = data_type in pb.DataType.values()
    return pb.DataType.Name(data_type).removeprefix("DATA_TYPE_") if known else f"number {data_type}"
