"""Conversion of tensors to and from buffers, without numpy.

Facts: `numpy.asarray` converts a memoryview without a copy. Tensors are little-endian, as are all supported machines.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from sluice.client.documents import unfit
from sluice.common.v1 import tensor_pb2 as pb
from sluice.errors import BackendFailed


def float32_view(tensor: pb.Tensor) -> "memoryview[float]":
    """Return a float32 tensor as a read-only memoryview of its shape, which shares its memory.

    Raises BackendFailed if type, shape and size do not match.
    """
    shape = list(tensor.shape)
    if tensor.data_type != pb.DATA_TYPE_FLOAT32 or len(tensor.data) != 4 * prod(shape) or not tensor.data:
        kind = pb.DataType.Name(tensor.data_type).removeprefix("DATA_TYPE_")
        raise BackendFailed(f"expected a FLOAT32 tensor, got {kind} of shape {shape} with {len(tensor.data):,} bytes")
    return memoryview(tensor.data).cast("f", shape)


def rows(tensor: pb.Tensor, counts: Sequence[int]) -> "list[memoryview[float]]":
    """Return the blocks, float32[count, D], of a tensor float32[sum(counts), D]. They share its memory."""
    if not counts:
        return []
    columns = tensor.shape[1] if len(tensor.shape) == 2 else 0
    values = float32_view(tensor).cast("B").cast("f")
    blocks = []
    start = 0
    for count in counts:
        block = values[start : start + count * columns]
        blocks.append(block.cast("B").cast("f", [count, columns]) if count else block)
        start += count * columns
    return blocks


def float32_tensor(vectors: Any, *, axes: int, field: str) -> pb.Tensor:
    """Return the tensor of a C-contiguous float32 buffer, such as a numpy array, a memoryview or a result of `embed`.

    axes   required number of axes
    field  field of the violation in the InvalidRequest that is raised for other buffers
    """
    view = memoryview(vectors)
    if view.format not in {"f", "<f"} or view.ndim != axes or not view.c_contiguous:
        raise unfit(field, f"expected a contiguous float32 buffer with {axes} axes, got {view.format!r} {view.shape}")
    return pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=view.shape, data=view.tobytes())
