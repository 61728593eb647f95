"""Reading of Dense modules: what their configuration states, checked against the shapes of their weights.

Facts: PyLate's Dense works on token states, sentence-transformers' on the vector of a text unless its configuration
says otherwise. The activation is a class of torch.nn, which sentence-transformers imports: no other class may be named.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel

from export.checkpoint.chain import Activation, Dense
from export.checkpoint.files import LINEAR, read_settings, shapes_of, weights_in
from export.errors import ExportError

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
_TORCH: Final = ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear")
_INPUTS: Final[dict[str, Literal["tokens", "text"]]] = {"token_embeddings": "tokens", "sentence_embedding": "text"}


class _Settings(BaseModel):
    in_features: int = 0
    out_features: int = 0
    bias: bool = True
    activation_function: str | None = None
    module_input_name: str | None = None
    module_output_name: str | None = None
    use_residual: bool = False


def read_dense(folder: Path, *, is_pylate: bool, trust_pickle: bool) -> Dense:
    """Read a Dense. Raises ExportError."""
    path = folder / "config.json"
    config = read_settings(path, _Settings)
    source = config.module_input_name or ("token_embeddings" if is_pylate else "sentence_embedding")
    target = config.module_output_name or source
    if source not in _INPUTS or source != target:
        expected = " or ".join(_INPUTS)
        raise ExportError(f"{path}: expected {expected} as input and as output, found {source} and {target}")
    dense = Dense(
        weights_in(folder, trust_pickle=trust_pickle),
        _INPUTS[source],
        in_features=config.in_features,
        out_features=config.out_features,
        has_bias=config.bias,
        activation=_activation(path, config.activation_function, is_pylate=is_pylate),
        has_residual=is_pylate and config.use_residual,
    )
    return _as_stored(dense) if dense.weights.suffix == ".safetensors" else dense


def read_projection(body: Path) -> Dense:
    """Read the projection of a ColBERT checkpoint without modules, which lies among its weights. Raises ExportError."""
    for path in sorted(body.glob("*.safetensors")):
        shapes = shapes_of(path)
        if len(shapes.get(LINEAR, ())) == 2:
            out_features, in_features = shapes[LINEAR]
            return Dense(path, "tokens", in_features, out_features, has_bias="linear.bias" in shapes)
    raise ExportError(f"{body}: expected a projection named {LINEAR} in the safetensors, found none")


def _as_stored(dense: Dense) -> Dense:
    """Return a Dense with the shape of its weights. Raises ExportError if they contradict its configuration."""
    shapes = shapes_of(dense.weights)
    shape = shapes.get(LINEAR, ())
    if len(shape) != 2:
        raise ExportError(f"{dense.weights}: expected {LINEAR} of two axes, found {list(shape)}")
    out_features, in_features = shape
    expected: dict[str, tuple[int, ...]] = {LINEAR: shape}
    if dense.has_bias:
        expected["linear.bias"] = (out_features,)
    if dense.has_residual and in_features != out_features:
        expected["residual.weight"] = shape
    stated = (dense.out_features or out_features, dense.in_features or in_features)
    if shapes != expected or stated != shape:
        raise ExportError(
            f"{dense.weights}: expected the weights of a Dense from {stated[1]} to {stated[0]} dimensions, "
            f"{_names(expected)}; found {_names(shapes)}"
        )
    return replace(dense, in_features=in_features, out_features=out_features)


def _names(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _activation(path: Path, stated: str | None, *, is_pylate: bool) -> Activation:
    """Return the activation of a Dense. Raises ExportError for one that is not known, which would run its code."""
    if not stated:
        return "identity" if is_pylate else "tanh"
    package, _, name = stated.rpartition(".")
    if package not in _TORCH or name not in _ACTIVATIONS:
        raise ExportError(f"{path}: expected an activation among torch.nn.{', '.join(_ACTIVATIONS)}, found {stated}")
    return _ACTIVATIONS[name]
