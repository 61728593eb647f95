"""The head of a graph: pooling, projection and normalization, which turn token states into the outputs of a bundle.

It is written as ONNX text and appended after the fusions, so it is the same for every architecture and independent of
torch's tracer.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from export.checkpoint.description import Pooling

STATES: Final = "last_hidden_state"
_LOGITS: Final = "logits"
_PROJECTION: Final = "h_projection"
# B texts, T tokens, D dimensions, S width of states, V vocabulary. The constants equal sentence-transformers': the
# mean of no token is 0, and a row of zeros stays zero.
_HEAD: Final = """
<ir_version: 10, opset_import: ["" : 18]>
head ({source}, int64[B,T] attention_mask) => ({outputs})
<int64[1] h_first = {{1}}, int64[1] h_last = {{-1}}, int64 h_zero = {{0}}, int64 h_axis = {{1}},
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
    # The count of tokens reaches its maximum first at the last token, on whichever side the padding is.
    "last-token": """
        h_counts = CumSum (attention_mask, h_axis)
        h_counts_32 = Cast <to = 6> (h_counts)
        h_index = ArgMax <axis = 1> (h_counts_32)
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
