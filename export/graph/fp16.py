"""Conversion of a graph to half precision, for GPUs."""

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def to_float16(body: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in float16 with float32 inputs and outputs, so that the head after it stays exact."""
    copy = onnx.ModelProto()
    copy.CopyFrom(body)
    result: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    return result
