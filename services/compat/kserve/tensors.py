"""Conversion between tensors of the protocol and arrays, after validation of every shape, type and length.

    datatype   array        datatype   array        datatype   array
    BOOL       bool         UINT8..64  uint8..64    FP16       float16, raw only
    BYTES      list[bytes]  INT8..64   int8..64     FP32, 64   float32, float64

BF16 is rejected: numpy has no such type, and no model here has such tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sluice.kserve.v2 import inference_service_pb2 as pb

from services.rpc.validation import Violations, quote

BYTES: Final = "BYTES"
_DTYPES: Final[Mapping[str, tuple[np.dtype[Any], str]]] = {
    "BOOL": (np.dtype(bool), "bool_contents"),
    "UINT8": (np.dtype("u1"), "uint_contents"),
    "UINT16": (np.dtype("<u2"), "uint_contents"),
    "UINT32": (np.dtype("<u4"), "uint_contents"),
    "UINT64": (np.dtype("<u8"), "uint64_contents"),
    "INT8": (np.dtype("i1"), "int_contents"),
    "INT16": (np.dtype("<i2"), "int_contents"),
    "INT32": (np.dtype("<i4"), "int_contents"),
    "INT64": (np.dtype("<i8"), "int64_contents"),
    "FP16": (np.dtype("<f2"), ""),
    "FP32": (np.dtype("<f4"), "fp32_contents"),
    "FP64": (np.dtype("<f8"), "fp64_contents"),
}
_DATATYPES: Final = {dtype: name for name, (dtype, _) in _DTYPES.items()}
_LENGTH: Final = np.dtype("<u4")
# Most elements of one tensor: far more than fit into a message, and small enough for products not to overflow.
_MOST_ELEMENTS: Final = 2**28
# Most elements that are read one by one: 262,144 take 10 ms on the event loop. Raw contents are mapped instead.
_MOST_TYPED: Final = 262_144


@dataclass(frozen=True)
class Spec:
    """An input or output of a model. `dims` is its shape without the batch axis, with -1 for any length."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    is_optional: bool = False


@dataclass(frozen=True)
class InputTensor:
    """A tensor of a request. `values` [shape] in row-major order: an array, or for BYTES a flat list."""

    field: str
    """Path of the tensor in the request."""
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]


def input_tensors(
    request: pb.ModelInferRequest, specs: Sequence[Spec], violations: Violations, *, most_rows: int
) -> dict[str, InputTensor]:
    """Return the valid tensors of a request by name; add violations for the others.

    The contents of a tensor are read only after its name, type and shape have been validated, so the limits bound the
    work, not the request.
    """
    known = {spec.name: spec for spec in specs}
    raw = request.raw_input_contents
    if not violations.count("inputs", len(request.inputs), low=0, high=len(specs), what="tensors"):
        return {}
    if raw and len(raw) != len(request.inputs):
        violations.add("raw_input_contents", f"expected one for each of {len(request.inputs)} inputs, got {len(raw)}")
        return {}
    tensors: dict[str, InputTensor] = {}
    for position, tensor in enumerate(request.inputs):
        field = f"inputs[{position}]"
        problem = _problem(tensor, known, tensors, has_raw=len(raw) > 0, most_rows=most_rows)
        if problem is None:
            try:
                values = _raw(tensor, raw[position]) if raw else _typed(tensor)
            except ValueError as error:
                violations.add(field, str(error))
            else:
                tensors[tensor.name] = InputTensor(field, tensor.datatype, tuple(tensor.shape), values)
        else:
            violations.add(field + problem[0], problem[1])
    return tensors


def _problem(
    tensor: Any, known: Mapping[str, Spec], before: Mapping[str, InputTensor], *, has_raw: bool, most_rows: int
) -> tuple[str, str] | None:
    """Return what is wrong with a tensor's description: where, and what; None if nothing is."""
    if tensor.name not in known or tensor.name in before:
        return ".name", f"expected one of {', '.join(known)}, each once, got {quote(tensor.name)}"
    spec = known[tensor.name]
    if tensor.datatype != spec.datatype:
        return ".datatype", f"expected {spec.datatype} for {spec.name}, got {quote(tensor.datatype)}"
    if has_raw and tensor.HasField("contents"):
        return ".contents", "expected none together with raw_input_contents, got some"
    if tensor.parameters:
        return ".parameters", f"expected none because shared memory is not supported, got {len(tensor.parameters)}"
    return _misfit(tensor.shape, spec, most_rows)


def _misfit(shape: Sequence[int], spec: Spec, most_rows: int) -> tuple[str, str] | None:
    """Return where and how a shape is wrong; None if it is valid."""
    if not _fits(shape, spec):
        return ".shape", f"expected {shape_of(spec)}, got {list(shape[:8])}"
    rows = shape[0]
    return None if 1 <= rows <= most_rows else (".shape[0]", f"expected 1 to {most_rows:,} rows, got {rows:,}")


def _fits(shape: Sequence[int], spec: Spec) -> bool:
    """Return whether a shape is valid for the tensor and its size is possible."""
    if len(shape) != 1 + len(spec.dims) or not all(0 <= extent <= _MOST_ELEMENTS for extent in shape):
        return False
    return prod(shape) <= _MOST_ELEMENTS and all(
        expected in (-1, extent) for expected, extent in zip(spec.dims, shape[1:], strict=True)
    )


def shape_of(spec: Spec) -> list[int]:
    """Return the shape of a tensor with its batch axis, and -1 for any length."""
    return [-1, *spec.dims]


def _raw(tensor: Any, raw: bytes) -> NDArray[Any] | list[bytes]:
    """Return the values of raw contents. Raises ValueError if the number of bytes does not match type and shape."""
    count = prod(tensor.shape)
    if tensor.datatype == BYTES:
        return elements(raw, count)
    dtype, _ = _DTYPES[tensor.datatype]
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"expected {count * dtype.itemsize:,} raw bytes for its type and shape, got {len(raw):,}")
    return np.frombuffer(raw, dtype=dtype).reshape(tuple(tensor.shape))


def _typed(tensor: Any) -> NDArray[Any] | list[bytes]:
    """Return the values of typed contents.

    Raises ValueError if their number does not match the shape, or their type differs.
    """
    count, contents = prod(tensor.shape), tensor.contents
    dtype, name = (None, "bytes_contents") if tensor.datatype == BYTES else _DTYPES[tensor.datatype]
    if not name:
        raise ValueError(f"expected raw contents for {tensor.datatype}, which has no typed contents")
    if others := [field.name for field, _ in contents.ListFields() if field.name != name]:
        raise ValueError(f"expected {name} for {tensor.datatype}, got {', '.join(others)}")
    given = getattr(contents, name)
    if len(given) != count:
        raise ValueError(f"expected {count:,} elements of {name} for its shape, got {len(given):,}")
    if count > _MOST_TYPED:
        raise ValueError(f"expected at most {_MOST_TYPED:,} elements, or raw contents, got {count:,}")
    if dtype is None:
        return list(given)
    try:
        return np.array(given, dtype=dtype).reshape(tuple(tensor.shape))
    except OverflowError:
        raise ValueError(f"expected elements within {tensor.datatype}, got one outside") from None


def elements(raw: bytes, count: int) -> list[bytes]:
    """Return the elements of BYTES, each of which follows its length.

    Raises ValueError if there are not `count` elements.
    """
    if count * _LENGTH.itemsize > len(raw):
        raise ValueError(f"expected {count:,} elements of BYTES, each with 4 bytes of length, got {len(raw):,} bytes")
    found: list[bytes] = []
    at = 0
    for number in range(count):
        start = at + _LENGTH.itemsize
        end = start + int.from_bytes(raw[at:start], "little")
        if start > len(raw) or end > len(raw):
            raise ValueError(f"expected element {number} to end at byte {end:,}, got {len(raw):,} bytes: truncated")
        found.append(raw[start:end])
        at = end
    if at != len(raw):
        raise ValueError(f"expected {count:,} elements to take {at:,} bytes, got {len(raw):,}")
    return found


def response_of(outputs: Mapping[str, NDArray[Any]]) -> pb.ModelInferResponse:
    """Return the tensors of a response, with raw contents."""
    response = pb.ModelInferResponse()
    for name, array in outputs.items():
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        response.outputs.add(name=name, datatype=_DATATYPES[little.dtype], shape=little.shape)
        response.raw_output_contents.append(little.tobytes())
    return response
