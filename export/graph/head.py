"""The head of a graph: the modules after a model's body, which turn token states into the outputs of a bundle.

It is written as ONNX text and appended after the fusions, so it is the same for every architecture and independent of
torch's tracer. It computes in float32 in every variant.
"""

from dataclasses import dataclass
from typing import Final

import onnx
import onnx.parser

from export.checkpoint.chain import Activation, Dense, Normalize, Pooling, PoolingMode, SpladePooling
from export.graph.files import is_one_file
from services.core.arrays import F32

STATES: Final = "last_hidden_state"
_LOGITS: Final = "logits"
# B texts, T tokens, D dimensions, S width of states, V vocabulary. The constants equal sentence-transformers': the
# mean of no token is 0, and a row of zeros stays zero.
_HEAD: Final = """
<ir_version: 10, opset_import: ["" : 18]>
head ({source}, int64[B,T] attention_mask) => ({outputs})
<int64[1] h_first = {{1}}, int64[1] h_last = {{-1}}, int64 h_zero = {{0}}, int64 h_axis = {{1}},
 float h_least_count = {{1e-9}}, float h_least_norm = {{1e-12}}, float h_low = {{-1e9}},
 float h_none = {{0}}, float h_half = {{0.5}}, float h_one = {{1}}, float h_root = {{0.70710678118654752}}>
{{
{lines}
}}
"""
# In all templates x is the input and y the output, or the prefix of intermediate values.
# A product with the weights reads the states once, where Mul and ReduceSum read them twice: for 1,024 rows of a static
# embedding 0.11 ms instead of 0.38 (onnxruntime 1.31, one thread).
_WEIGHTED: Final = """
        {y}_row = Unsqueeze ({y}_weights, h_first)
        {y}_product = MatMul ({y}_row, {x})
        {y}_sum = Squeeze ({y}_product, h_first)
        {y}_total = ReduceSum <keepdims = 1> ({y}_weights, h_first)
        {y}_least = Max ({y}_total, h_least_count)"""
_POOLING: Final[dict[PoolingMode, str]] = {
    "mean": f"""
        {{y}}_weights = Cast <to = 1> (attention_mask){_WEIGHTED}
        {{y}} = Div ({{y}}_sum, {{y}}_least)""",
    "mean-sqrt-len": f"""
        {{y}}_weights = Cast <to = 1> (attention_mask){_WEIGHTED}
        {{y}}_divisor = Sqrt ({{y}}_least)
        {{y}} = Div ({{y}}_sum, {{y}}_divisor)""",
    # The weight of a token is its position among the tokens of its text, from 1.
    "weighted-mean": f"""
        {{y}}_positions = CumSum (attention_mask, h_axis)
        {{y}}_counted = Mul ({{y}}_positions, attention_mask)
        {{y}}_weights = Cast <to = 1> ({{y}}_counted){_WEIGHTED}
        {{y}} = Div ({{y}}_sum, {{y}}_least)""",
    "cls": """
        {y} = Gather <axis = 1> ({x}, h_zero)""",
    # The count of tokens reaches its maximum first at the last token, on whichever side the padding is.
    "last-token": """
        {y}_counts = CumSum (attention_mask, h_axis)
        {y}_counts_32 = Cast <to = 6> ({y}_counts)
        {y}_index = ArgMax <axis = 1> ({y}_counts_32)
        {y} = GatherND <batch_dims = 1> ({x}, {y}_index)""",
    "max": """
        {y}_mask = Cast <to = 9> (attention_mask)
        {y}_mask_3d = Unsqueeze ({y}_mask, h_last)
        {y}_kept = Where ({y}_mask_3d, {x}, h_low)
        {y} = ReduceMax <keepdims = 0> ({y}_kept, h_first)""",
}
_ACTIVATIONS: Final[dict[Activation, str]] = {
    "identity": """
        {y} = Identity ({x})""",
    "tanh": """
        {y} = Tanh ({x})""",
    "relu": """
        {y} = Relu ({x})""",
    "sigmoid": """
        {y} = Sigmoid ({x})""",
    "silu": """
        {y}_gate = Sigmoid ({x})
        {y} = Mul ({x}, {y}_gate)""",
    "gelu": """
        {y}_scaled = Mul ({x}, h_root)
        {y}_erf = Erf ({y}_scaled)
        {y}_shifted = Add ({y}_erf, h_one)
        {y}_halved = Mul ({y}_shifted, h_half)
        {y} = Mul ({x}, {y}_halved)""",
}
_MASKED_LOGITS: Final = """
        {y}_mask = Cast <to = 9> (attention_mask)
        {y}_mask_3d = Unsqueeze ({y}_mask, h_last)
        {y}_kept = Where ({y}_mask_3d, {x}, h_none)"""
_LOG1P: Final = """
        {y}_plus_one = Add ({x}, h_one)
        {y} = Log ({y}_plus_one)"""
_UNIT: Final = """
        {y}_norm = ReduceL2 <keepdims = 1> ({x}, h_last)
        {y}_divisor = Max ({y}_norm, h_least_norm)
        {y} = Div ({x}, {y}_divisor)"""
_OUTPUTS: Final = {
    "dense": "float[B,D] dense",
    "sparse": "float[B,V] sparse",
    "multi_vector": "float[B,T,D] multi_vector",
}


@dataclass(frozen=True, eq=False)
class Linear:
    """A Dense with its weights."""

    dense: Dense
    weight: F32
    """[S, D]"""
    bias: F32 | None = None
    """[D]"""
    residual: F32 | None = None
    """[S, D], for a residual connection of different lengths."""


Layer = Pooling | Linear | Normalize | SpladePooling
"""A module of a chain, with its weights."""


@dataclass(frozen=True, eq=False)
class Head:
    """The outputs of a bundle, computed from those of the body."""

    layers: tuple[Layer, ...]
    multi_vector: bool = False
    """Whether unit vectors of all tokens are an output."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the graph's order."""
        given = {"dense": self._has(Pooling), "sparse": self._has(SpladePooling), "multi_vector": self.multi_vector}
        return tuple(name for name, is_given in given.items() if is_given)

    def _has(self, kind: type) -> bool:
        return any(isinstance(layer, kind) for layer in self.layers)


def with_head(body: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """Return the graph with the head's outputs instead of the body's."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    lines = _Lines(_LOGITS if "sparse" in head.outputs else STATES)
    for layer in head.layers:
        lines.add(layer)
    text = _HEAD.format(
        source=f"float[B,T,V] {_LOGITS}" if "sparse" in head.outputs else f"float[B,T,S] {STATES}",
        outputs=", ".join(_OUTPUTS[name] for name in head.outputs),
        lines="\n".join([*lines.lines, *lines.outputs(head)]),
    )
    added = onnx.parser.parse_model(text).graph
    used = {name for node in added.node for name in node.input}
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(tensor for tensor in added.initializer if tensor.name in used)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in lines.weights.items())
    del model.graph.output[:]
    model.graph.output.extend(added.output)
    if is_one_file(model):  # the checker takes no larger one
        onnx.checker.check_model(model)
    return model


class _Lines:
    """ONNX text of layers, one after the other."""

    def __init__(self, source: str) -> None:
        self.lines: list[str] = []
        self.weights: dict[str, F32] = {}
        self._tokens = source
        self._text = ""
        """Names of the latest token states and of the latest vectors of texts."""

    def add(self, layer: Layer) -> None:
        """Add the lines of a layer, which reads the latest token states or vectors of texts."""
        y = f"h_{len(self.lines)}"
        if isinstance(layer, Pooling):
            self._text = self._pool(layer, y)
        elif isinstance(layer, SpladePooling):
            self._text = self._weigh_terms(layer, y)
        elif isinstance(layer, Normalize):
            self._text = self._emit(_UNIT, self._text, y)
        elif layer.dense.of == "tokens":
            self._tokens = self._map(layer, self._tokens, y)
        else:
            self._text = self._map(layer, self._text, y)

    def outputs(self, head: Head) -> list[str]:
        """Return the lines of the outputs."""
        sources = {"dense": self._text, "sparse": self._text, "multi_vector": self._tokens}
        templates = {"multi_vector": _UNIT}
        return [templates.get(name, _ACTIVATIONS["identity"]).format(x=sources[name], y=name) for name in head.outputs]

    def _emit(self, template: str, x: str, y: str) -> str:
        self.lines.append(template.format(x=x, y=y))
        return y

    def _pool(self, pooling: Pooling, y: str) -> str:
        modes = enumerate(pooling.modes)
        parts = [self._emit(_POOLING[mode], self._tokens, f"{y}_{number}") for number, mode in modes]
        self.lines.append(f"        {y} = Concat <axis = -1> ({', '.join(parts)})")
        return y

    def _weigh_terms(self, pooling: SpladePooling, y: str) -> str:
        kept = f"{self._emit(_MASKED_LOGITS, self._tokens, y)}_kept"
        if pooling.strategy == "sum":
            weights = self._logarithms(self._emit(_ACTIVATIONS["relu"], kept, f"{y}_relu"), pooling.logarithms)
            self.lines.append(f"        {y} = ReduceSum <keepdims = 0> ({weights}, h_first)")
            return y
        # The function is monotonic and 0 at 0, as is the padding: the maximum first saves T - 1 of T logarithms.
        self.lines.append(f"        {y}_largest = ReduceMax <keepdims = 0> ({kept}, h_first)")
        return self._logarithms(self._emit(_ACTIVATIONS["relu"], f"{y}_largest", f"{y}_relu"), pooling.logarithms)

    def _logarithms(self, x: str, count: int) -> str:
        for number in range(count):
            x = self._emit(_LOG1P, x, f"{x}_log{number}")
        return x

    def _map(self, linear: Linear, x: str, y: str) -> str:
        product = self._product(x, linear.weight, f"{y}_product")
        if linear.bias is not None:
            product = self._emit(
                f"        {{y}} = Add ({{x}}, {self._add(f'{y}_bias', linear.bias)})", product, f"{y}_sum"
            )
        active = self._emit(_ACTIVATIONS[linear.dense.activation], product, f"{y}_active")
        if not linear.dense.has_residual:
            return active
        skip = x if linear.residual is None else self._product(x, linear.residual, f"{y}_residual")
        self.lines.append(f"        {y} = Add ({active}, {skip})")
        return y

    def _product(self, x: str, weight: F32, y: str) -> str:
        return self._emit(f"        {{y}} = MatMul ({{x}}, {self._add(f'{y}_weight', weight)})", x, y)

    def _add(self, name: str, value: F32) -> str:
        self.weights[name] = value
        return name
