"""Graphs of fewer bits: int8 for CPUs, float16 for GPUs. Both take the body of a graph, before its head."""

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16


def to_int8(body: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its matrix products in 8 bits: weights per channel, activations as they come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            body,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            # The fused operators carry no types that the quantiser could infer; they are all float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        return onnx.load(path)


def to_float16(body: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in half precision, with float32 inputs and outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(body)
    result: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    return result
