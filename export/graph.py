"""ONNX graphs of a checkpoint: exported by Optimum, fused by ONNX Runtime, with pooling and normalisation inside.

The body of a bi-encoder gives token states; the head below turns them into what the bundle promises. The head is
written as ONNX text and joined after the fusions, so that it is the same whatever the architecture is, and
whatever torch's tracer makes of slices and indices.
"""

import warnings
from pathlib import Path
from typing import Final

import onnx
import onnx.parser
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from optimum.exporters.onnx import export as optimum_export
from optimum.exporters.tasks import TasksManager
from optimum.onnxruntime.utils import ORTConfigManager
from torch.jit._trace import TracerWarning
from transformers import PreTrainedModel

from export.checkpoint import ExportError, Pooling

# The head needs axes as inputs (18). TensorRT 10 reads up to 20.
OPSET: Final = 18
STATES: Final = "last_hidden_state"

# B texts, T tokens, D dimension. Constants as sentence-transformers has them: the mean of no token is 0, and a row
# of zeros stays one.
_HEAD: Final = """
<ir_version: 10, opset_import: ["" : 18]>
head (float[B,T,D] last_hidden_state, int64[B,T] attention_mask) => (float[B,D] dense, float[B,T,D] multi_vector)
<int64[1] h_first = {{1}}, int64[1] h_last = {{-1}}, int64 h_zero = {{0}},
 float h_least_count = {{1e-9}}, float h_least_norm = {{1e-12}}, float h_low = {{-1e9}}>
{{
{lines}
}}
"""
_POOLING: Final[dict[Pooling, str]] = {
    "mean": """
        h_mask = Cast <to = 1> (attention_mask)
        h_mask_3d = Unsqueeze (h_mask, h_last)
        h_kept = Mul (last_hidden_state, h_mask_3d)
        h_sum = ReduceSum <keepdims = 0> (h_kept, h_first)
        h_count = ReduceSum <keepdims = 1> (h_mask, h_first)
        h_divisor = Max (h_count, h_least_count)
        h_pooled = Div (h_sum, h_divisor)""",
    "cls": """
        h_pooled = Gather <axis = 1> (last_hidden_state, h_zero)""",
    # Padding is on the right, so the last token is the one before it.
    "last-token": """
        h_length = ReduceSum <keepdims = 1> (attention_mask, h_first)
        h_index = Sub (h_length, h_first)
        h_pooled = GatherND <batch_dims = 1> (last_hidden_state, h_index)""",
    "max": """
        h_mask = Cast <to = 9> (attention_mask)
        h_mask_3d = Unsqueeze (h_mask, h_last)
        h_kept = Where (h_mask_3d, last_hidden_state, h_low)
        h_pooled = ReduceMax <keepdims = 0> (h_kept, h_first)""",
}
_UNIT: Final = """
        {name}_norm = ReduceL2 <keepdims = 1> ({source}, h_last)
        {name}_divisor = Max ({name}_norm, h_least_norm)
        {name} = Div ({source}, {name}_divisor)"""


def export_body(model: PreTrainedModel, task: str, path: Path) -> None:
    """Write the graph of a torch model through Optimum, float32, with dynamic batch and length.

    task   Optimum's: `feature-extraction` (token states) or `text-classification` (logits)
    Raises ExportError for an architecture that Optimum does not know.
    """
    try:
        construct = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task=task, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise ExportError(f"{type(model).__name__}: expected an architecture that Optimum exports: {error}") from error
    config = construct(model.config, task=task)
    with warnings.catch_warnings():
        # Optimum exports through TorchScript, which torch deprecates, and whose tracer warns of constants. Parity is
        # measured afterwards.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        optimum_export(model, config, output=path, opset=max(OPSET, config.DEFAULT_ONNX_OPSET))


def fuse(path: Path, model_type: str, *, heads: int, hidden: int) -> onnx.ModelProto:
    """The graph with ONNX Runtime's transformer fusions; as it is when its architecture has none.

    The fusions keep float32 results to rounding: gelu stays exact, and no layer is made half precision.
    """
    try:
        kind = ORTConfigManager.get_model_ort_type(model_type)
    except KeyError:
        return onnx.load(path)
    optimizer = optimize_model(
        str(path),
        model_type=kind,
        num_heads=heads,
        hidden_size=hidden,
        optimization_options=FusionOptions(kind),
        opt_level=1,
        use_gpu=False,
    )
    return optimizer.model


def for_cpu(body: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with SkipLayerNormalization taken apart into Sum and LayerNormalization.

    ONNX Runtime's fused operator is scalar code on CPUs, LayerNormalization is not: MiniLM at 8 x 64 tokens takes 75 ms
    instead of 85 (onnxruntime 1.31, one thread). Sum, because two Adds would be fused again when the graph is loaded.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    del model.graph.node[:]
    for node in body.graph.node:
        model.graph.node.extend(_taken_apart(node) if _is_skip_norm(node) else [node])
    return model


def _is_skip_norm(node: onnx.NodeProto) -> bool:
    # More outputs than one are by-products that only the fused operator has.
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


def with_head(body: onnx.ModelProto, pooling: Pooling, *, normalize: bool, multi_vector: bool) -> onnx.ModelProto:
    """The graph that gives `dense`, and perhaps `multi_vector`, in place of the body's token states."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    head = onnx.parser.parse_model(_HEAD.format(lines="\n".join(_lines(pooling, normalize, multi_vector)))).graph
    used = {name for node in head.node for name in node.input}
    model.graph.node.extend(head.node)
    model.graph.initializer.extend(tensor for tensor in head.initializer if tensor.name in used)
    del model.graph.output[:]
    model.graph.output.extend(head.output[: 1 + multi_vector])
    onnx.checker.check_model(model)
    return model


def _lines(pooling: Pooling, normalize: bool, multi_vector: bool) -> list[str]:
    lines = [_POOLING[pooling]]
    lines.append(_UNIT.format(name="dense", source="h_pooled") if normalize else "        dense = Identity (h_pooled)")
    if multi_vector:
        lines.append(_UNIT.format(name="multi_vector", source=STATES))
    return lines
