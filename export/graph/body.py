"""The body of a graph: the model as Optimum exports it."""

import warnings
from pathlib import Path
from typing import Final

import onnx
import onnx.parser
from optimum.exporters.onnx import export as optimum_export
from transformers import PreTrainedModel

from export.graph.files import save_graph
from export.graph.onnx_config import onnx_config

# The head needs axes as inputs (18). TensorRT 10 reads up to 20.
OPSET: Final = 18
_POSITIONS: Final = "position_ids"
# The positions of tokens among those that are not padding. Padding before the first token has position 0.
_FROM_MASK: Final = """
<ir_version: 10, opset_import: ["" : 18]>
positions (int64[B,T] attention_mask) => (int64[B,T] position_ids)
<int64 p_axis = {1}, int64 p_one = {1}, int64 p_zero = {0}>
{
    p_counts = CumSum (attention_mask, p_axis)
    p_indices = Sub (p_counts, p_one)
    position_ids = Max (p_indices, p_zero)
}
"""


def export_body(model: PreTrainedModel, task: str, path: Path) -> None:
    """Write the graph of a torch model through Optimum, float32, with dynamic batch size and length.

    Where Optimum makes positions an input, which it does for decoders, the graph computes them from the mask.

    task   Optimum's: `feature-extraction` (token states), `fill-mask` (logits) or `text-classification` (logits)
    Raises ExportError for an architecture that Optimum does not know.
    """
    config = onnx_config(model, task)
    with warnings.catch_warnings():
        # Optimum exports through TorchScript, which is deprecated and warns about constants and indices. Parity is
        # measured afterwards.
        warnings.simplefilter("ignore")
        optimum_export(model, config, output=path, opset=max(OPSET, config.DEFAULT_ONNX_OPSET))
    if _POSITIONS in config.inputs:
        save_graph(_with_positions_from_mask(onnx.load(path)), path)


def _with_positions_from_mask(body: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with positions computed from the mask, no longer an input."""
    added = onnx.parser.parse_model(_FROM_MASK).graph
    nodes, inputs = list(body.graph.node), [value for value in body.graph.input if value.name != _POSITIONS]
    del body.graph.node[:], body.graph.input[:]
    body.graph.input.extend(inputs)
    body.graph.node.extend([*added.node, *nodes])
    body.graph.initializer.extend(added.initializer)
    return body
