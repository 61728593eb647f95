"""The head of a reranker on a decoder: logits of the state of the last token.

transformers finds the last token by `pad_token_id`. The graph finds it by the mask, so a row does not depend on its
padding, and then passes over tokens with that id, as transformers does.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnx.parser

from export.graph.head import STATES, Head, with_head
from services.core.arrays import F32

# B rows, T tokens, S width of states, M logits of the model, L logits of the bundle.
_GRAPH: Final = """
<ir_version: 10, opset_import: ["" : 18]>
head (float[B,T,S] last_hidden_state, int64[B,T] input_ids, int64[B,T] attention_mask) => (float[B,L] logits)
<int64[1] l_axis = {{1}}, int64 l_one = {{1}}, int64 l_pad = {{{pad}}}, float l_cap = {{{cap}}}>
{{
    l_indices = CumSum (attention_mask, l_one)
    {last}
    l_largest = ReduceMax <keepdims = 1> (l_counted, l_axis)
    l_first = Max (l_largest, l_one)
    l_position = Sub (l_first, l_one)
    l_state = GatherND <batch_dims = 1> (last_hidden_state, l_position)
    l_product = MatMul (l_state, l_weight)
    {logits}
}}
"""
_BY_MASK: Final = "l_counted = Mul (l_indices, attention_mask)"
_BY_ID: Final = """l_is_pad = Equal (input_ids, l_pad)
    l_is_token = Not (l_is_pad)
    l_is_token_int = Cast <to = 7> (l_is_token)
    l_masked = Mul (l_indices, attention_mask)
    l_counted = Mul (l_masked, l_is_token_int)"""
_CAP: Final = """l_scaled = Div (l_sum, l_cap)
    l_tanh = Tanh (l_scaled)
    l_capped = Mul (l_tanh, l_cap)"""


@dataclass(frozen=True, eq=False)
class LogitHead:
    """Logits of the state of the last token: `cap(state @ weight + bias) @ mix`."""

    weight: F32
    """[S, M]"""
    bias: F32 | None = None
    """[M]"""
    soft_cap: float | None = None
    """cap(x) = soft_cap * tanh(x / soft_cap); None: x."""
    mix: F32 | None = None
    """[M, L]; None: the logits are those of the model."""
    pad_token_id: int | None = None
    """Token that does not count as the last one; None: only padding does not."""

    outputs = ("logits",)


def add_head(body: onnx.ModelProto, head: Head | LogitHead | None) -> onnx.ModelProto:
    """Return the graph with the head's outputs instead of the body's; unchanged without a head."""
    if head is None:
        return body
    return _with_logits(body, head) if isinstance(head, LogitHead) else with_head(body, head)


def _with_logits(body: onnx.ModelProto, head: LogitHead) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(body)
    assert any(value.name == STATES for value in model.graph.output)
    weights = {"l_weight": head.weight, "l_bias": head.bias, "l_mix": head.mix}
    text = _GRAPH.format(
        pad=head.pad_token_id or 0,
        cap=head.soft_cap or 1.0,
        last=_BY_MASK if head.pad_token_id is None else _BY_ID,
        logits="\n    ".join(_lines(head)),
    )
    added = onnx.parser.parse_model(text).graph
    used = {name for node in added.node for name in node.input}
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(tensor for tensor in added.initializer if tensor.name in used)
    for name, value in weights.items():
        if value is not None:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    del model.graph.output[:]
    model.graph.output.extend(added.output)
    onnx.checker.check_model(model)
    return model


def _lines(head: LogitHead) -> list[str]:
    return [
        "l_sum = Identity (l_product)" if head.bias is None else "l_sum = Add (l_product, l_bias)",
        "l_capped = Identity (l_sum)" if head.soft_cap is None else _CAP,
        "logits = Identity (l_capped)" if head.mix is None else "logits = MatMul (l_capped, l_mix)",
    ]
