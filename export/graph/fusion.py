"""ONNX Runtime's transformer fusions, and what of them is undone for CPUs."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from optimum.onnxruntime.utils import ORTConfigManager

# ONNX Runtime's name for all decoders.
_DECODER: Final = "gpt2"


def fuse(path: Path, model_type: str, *, heads: int, hidden: int) -> onnx.ModelProto:
    """Return the graph with ONNX Runtime's transformer fusions; with constants folded if its architecture has none.

    Fusions of RMSNorm, which decoders and T5 have, write operators into the standard domain that only ONNX Runtime
    knows, such as SimplifiedLayerNormalization. ONNX Runtime fuses the same norms when it loads the graph.

    The fusions keep float32 results up to rounding: gelu stays exact, and no layer becomes half precision.
    """
    try:
        kind = ORTConfigManager.get_model_ort_type(model_type)
    except KeyError:
        kind = _DECODER
    fused = None if kind == _DECODER else _optimize(path, kind, heads=heads, hidden=hidden)
    if fused and _is_standard(fused):
        return fused
    return _optimize(path, _DECODER, heads=heads, hidden=hidden) or onnx.load(path)


def _optimize(path: Path, kind: str, *, heads: int, hidden: int) -> onnx.ModelProto | None:
    """Return the graph with the fusions of a kind of model, and constants folded; None if they fail."""
    try:
        with redirect_stdout(io.StringIO()):  # the optimizer prints what it skips
            model: onnx.ModelProto = optimize_model(
                str(path),
                model_type=kind,
                num_heads=heads,
                hidden_size=hidden,
                optimization_options=FusionOptions(kind),
                opt_level=1,
                use_gpu=False,
                only_onnxruntime=kind == _DECODER,
            ).model
    except Exception:  # fusions fail in many ways on graphs that they were not written for
        return None
    return model


def _is_standard(model: onnx.ModelProto) -> bool:
    """Return whether each operator of the standard domain is one of ONNX."""
    return all(onnx.defs.has(node.op_type) for node in model.graph.node if not node.domain)


def for_cpu(body: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with each SkipLayerNormalization split into Sum and LayerNormalization.

    ONNX Runtime's fused operator is scalar code on CPUs, LayerNormalization is not: MiniLM at 8 x 64 tokens takes 75 ms
    instead of 85 (onnxruntime 1.31, one thread). Sum, because two Adds would be fused again when the graph is loaded.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    del model.graph.node[:]
    for node in body.graph.node:
        model.graph.node.extend(_taken_apart(node) if _is_skip_norm(node) else [node])
    return model


def without_gemm(body: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with each Gemm on flattened tokens split into MatMul and Add, which quantization knows.

    GPT-2's linear layers are such. A Gemm of one row per text, as in a classifier, stays.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    constants = {tensor.name for tensor in body.graph.initializer}
    flat = {node.output[0] for node in body.graph.node if node.op_type == "Reshape"}
    del model.graph.node[:]
    for node in body.graph.node:
        is_flat = node.op_type == "Gemm" and node.input[0] in flat and set(node.input[1:]) <= constants
        model.graph.node.extend(_split_gemm(node) if is_flat and _is_plain(node) else [node])
    return model


def _is_plain(gemm: onnx.NodeProto) -> bool:
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in gemm.attribute}
    return {**defaults, **attributes} == defaults and len(gemm.input) == 3


def _split_gemm(gemm: onnx.NodeProto) -> list[onnx.NodeProto]:
    rows, weights, bias = gemm.input
    output = gemm.output[0]
    return [
        onnx.helper.make_node("MatMul", [rows, weights], [f"{output}_product"], name=f"{gemm.name}_product"),
        onnx.helper.make_node("Add", [f"{output}_product", bias], [output], name=gemm.name),
    ]


def _is_skip_norm(node: onnx.NodeProto) -> bool:
    # Additional outputs exist only in the fused operator.
    return node.op_type == "SkipLayerNormalization" and len([name for name in node.output if name]) == 1


def _taken_apart(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    first, skip, scale, shift, *bias = node.input
    output = node.output[0]
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return [
        onnx.helper.make_node("Sum", [first, *bias, skip], [f"{output}_sum"], name=f"{node.name}_sum"),
        onnx.helper.make_node(
            "LayerNormalization",
            [f"{output}_sum", scale, shift],
            [output],
            name=node.name,
            axis=-1,
            epsilon=attributes.get("epsilon", 1e-12),
        ),
    ]
