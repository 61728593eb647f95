"""Tensors to and from buffers, without numpy.

Facts: `numpy.asarray` takes a memoryview without a copy. Tensors are little-endian, as is every machine we build for.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from sluice.client.documents import unfit
from sluice.common.v1 import tensor_pb2 as pb
from sluice.errors import BackendFailed


def float32_view(tensor: pb.Tensor) -> "memoryview[float]":
    """The values of a float32 tensor as a read-only memoryview of its shape, sharing its memory.

    Raises BackendFailed when type, shape and size do not fit each other.
    """
    shape = list(tensor.shape)
    if tensor.data_type != pb.DATA_TYPE_FLOAT32 or len(tensor.data) != 4 * prod(shape) or not tensor.data:
        kind = pb.DataType.Name(tensor.data_type).removeprefix("DATA_TYPE_")
        raise BackendFailed(f"expected a FLOAT32 tensor, got {kind} of shape {shape} with {len(tensor.data):,} bytes")
    return memoryview(tensor.data).cast("f", shape)


def rows(tensor: pb.Tensor, counts: Sequence[int]) -> "list[memoryview[float]]":
    """The [count, columns] blocks of a float32 [sum(counts), columns] tensor, sharing its memory."""
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
    """The tensor of a C-contiguous float32 buffer with so many axes: a numpy array, a memoryview, what `embed` gave.

    Raises InvalidRequest naming `field` when the buffer is something else.
    """
    view = memoryview(vectors)
    if view.format not in {"f", "<f"} or view.ndim != axes or not view.c_contiguous:
        raise unfit(field, f"expected a contiguous float32 buffer with {axes} axes, got {view.format!r} {view.shape}")
    return pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=view.shape, data=view.tobytes())
