"""Channels of gated feed-forward layers made alike in size, before they are quantized.

A decoder's feed-forward layer computes (gate(x) * (x · W_up)) · W_down. Some channels of the product in the middle are
hundreds of times larger than others, which one 8-bit scale per token cannot express. Multiplying column j of W_up by
f_j and dividing row j of W_down by it leaves the result unchanged and costs nothing at run time.

Source: Xiao et al., SmoothQuant, ICML 2023, equation 4.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from services.core.arrays import F32

# Share of a channel's size that moves from activations into weights.
_SMOOTHING: Final = 0.7
_LEAST: Final = 1e-9


class _Gated(NamedTuple):
    """Names in the graph: the product with a gate, and the weights before and after it."""

    product: str
    up: str
    down: str


def smooth_gated(body: onnx.ModelProto, activations: Mapping[str, F32]) -> tuple[onnx.ModelProto, dict[str, F32]]:
    """Return an equal graph whose gated products have channels of similar size, and its activations.

    activations  float32 [tokens, channels] of the inputs of matrix products, by name
    """
    model, scaled = onnx.ModelProto(), dict(activations)
    model.CopyFrom(body)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for gated in _find_gated(model.graph, set(weights)):
        x, up, down = activations[gated.product], *(numpy_helper.to_array(weights[name]) for name in gated[1:])
        largest = np.maximum(np.abs(x).max(axis=0), _LEAST) ** _SMOOTHING
        factors = np.maximum(np.abs(down).max(axis=1), _LEAST) ** (1 - _SMOOTHING) / largest
        weights[gated.up].CopyFrom(numpy_helper.from_array(up * factors, gated.up))
        weights[gated.down].CopyFrom(numpy_helper.from_array(down / factors[:, None], gated.down))
        scaled[gated.product] = x * factors
    return model, scaled


def _find_gated(graph: onnx.GraphProto, constants: set[str]) -> Iterator[_Gated]:
    producers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    for down in graph.node:
        product = producers.get(down.input[0]) if _is_linear(down, constants) else None
        if product is None or product.op_type != "Mul" or uses[product.output[0]] != 1:
            continue
        for name in product.input:
            up = producers.get(name)
            if up and _is_linear(up, constants) and all(uses[used] == 1 for used in (name, up.input[1], down.input[1])):
                yield _Gated(product.output[0], up.input[1], down.input[1])
                break


def _is_linear(node: onnx.NodeProto, constants: set[str]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in constants
