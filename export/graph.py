"""ONNX graphs of a checkpoint: exported by Optimum, fused by ONNX Runtime, with pooling and normalization included.

The body of a bi-encoder gives token states; the head turns them into the outputs of the bundle. The head is written
as ONNX text and appended after the fusions, so it is the same for every architecture and independent of torch's tracer.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
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

_LOGITS: Final = "logits"
_PROJECTION: Final = "h_projection"

# B texts, T tokens, D dimensions, S width of states, V vocabulary. The constants equal sentence-transformers': the
# mean of no token is 0, and a row of zeros stays zero.
_HEAD: Final = """
<ir_version: 10, opset_import: ["" : 18]>
head ({source}, int64[B,T] attention_mask) => ({outputs})
<int64[1] h_first = {{1}}, int64[1] h_last = {{-1}}, int64 h_zero = {{0}},
 float h_least_count = {{1e-9}}, float h_least_norm = {{1e-12}}, float h_low = {{-1e9}},
 float h_none = {{0}}, float h_one = {{1}}>
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
_OUTPUTS: Final = {
    "dense": "float[B,D] dense",
    "sparse": "float[B,V] sparse",
    "multi_vector": "float[B,T,D] multi_vector",
}
# log(1 + relu(x)) is monotonic, so taking the maximum first saves T - 1 of T logarithms. Padding counts as 0, which has
# no effect after relu.
_SPARSE: Final = """
        h_mask = Cast <to = 9> (attention_mask)
        h_mask_3d = Unsqueeze (h_mask, h_last)
        h_kept = Where (h_mask_3d, logits, h_none)
        h_largest = ReduceMax <keepdims = 0> (h_kept, h_first)
        h_relu = Relu (h_largest)
        h_plus_one = Add (h_relu, h_one)
        sparse = Log (h_plus_one)"""
_UNIT: Final = """
        {name}_norm = ReduceL2 <keepdims = 1> ({source}, h_last)
        {name}_divisor = Max ({name}_norm, h_least_norm)
        {name} = Div ({source}, {name}_divisor)"""


@dataclass(frozen=True, eq=False)
class Head:
    """The outputs of a bundle, computed from those of the body."""

    pooling: Pooling | None = None
    """For `dense`: how token states become one vector."""
    normalize: bool = False
    """Whether that vector has unit length."""
    sparse: bool = False
    """Whether term weights are an output. Source: Formal et al., SPLADE v2, 2021."""
    multi_vector: bool = False
    """Whether unit vectors of all tokens are an output."""
    projection: NDArray[np.float32] | None = None
    """float32 [S, D] that token states are multiplied by first; None leaves them unchanged."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the graph's order."""
        given = {"dense": self.pooling is not None, "sparse": self.sparse, "multi_vector": self.multi_vector}
        return tuple(name for name, is_given in given.items() if is_given)


def export_body(model: PreTrainedModel, task: str, path: Path) -> None:
    """Write the graph of a torch model through Optimum, float32, with dynamic batch size and length.

    task   Optimum's: `feature-extraction` (token states), `fill-mask` (logits) or `text-classification` (logits)
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
        # Optimum exports through TorchScript, which is deprecated and whose tracer warns about constants. Parity is
        # measured afterwards.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        optimum_export(model, config, output=path, opset=max(OPSET, config.DEFAULT_ONNX_OPSET))


def fuse(path: Path, model_type: str, *, heads: int, hidden: int) -> onnx.ModelProto:
    """Return the graph with ONNX Runtime's transformer fusions; unchanged if its architecture has none.

    The fusions keep float32 results up to rounding: gelu stays exact, and no layer becomes half precision.
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


def with_head(body: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """Return the graph with the head's outputs instead of the body's."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    text = _HEAD.format(
        source=f"float[B,T,V] {_LOGITS}" if head.sparse else f"float[B,T,S] {STATES}",
        outputs=", ".join(_OUTPUTS[name] for name in head.outputs),
        lines="\n".join(_lines(head)),
    )
    added = onnx.parser.parse_model(text).graph
    used = {name for node in added.node for name in node.input}
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(tensor for tensor in added.initializer if tensor.name in used)
    if head.projection is not None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(head.projection, _PROJECTION))
    del model.graph.output[:]
    model.graph.output.extend(added.output)
    onnx.checker.check_model(model)
    return model


def _lines(head: Head) -> list[str]:
    lines = []
    if head.pooling:
        unit = _UNIT.format(name="dense", source="h_pooled")
        lines += [_POOLING[head.pooling], unit if head.normalize else "        dense = Identity (h_pooled)"]
    if head.sparse:
        lines.append(_SPARSE)
    if head.multi_vector:
        states = STATES
        if head.projection is not None:
            states = "h_projected"
            lines.append(f"        {states} = MatMul ({STATES}, {_PROJECTION})")
        lines.append(_UNIT.format(name="multi_vector", source=states))
    return lines
