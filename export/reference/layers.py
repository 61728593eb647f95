"""The modules of a chain for the head of a graph, with their weights, and for the reference model."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers.sentence_transformer import modules

from export.checkpoint.chain import Activation, Chain, Dense, Module, Pooling, PoolingMode
from export.checkpoint.files import LINEAR
from export.errors import ExportError
from export.graph.head import Layer, Linear
from services.core.arrays import F32

_FUNCTIONS: Final[dict[Activation, torch.nn.Module]] = {
    "identity": torch.nn.Identity(),
    "tanh": torch.nn.Tanh(),
    "relu": torch.nn.ReLU(),
    "gelu": torch.nn.GELU(),
    "silu": torch.nn.SiLU(),
    "sigmoid": torch.nn.Sigmoid(),
}
_MODES: Final[dict[PoolingMode, str]] = {
    "mean": "mean",
    "cls": "cls",
    "last-token": "lasttoken",
    "max": "max",
    "weighted-mean": "weightedmean",
    "mean-sqrt-len": "mean_sqrt_len_tokens",
}


def read_layers(chain: Chain) -> tuple[Layer, ...]:
    """Return the modules of a chain with their weights. Raises ExportError."""
    return tuple(read_linear(module) if isinstance(module, Dense) else module for module in chain)


def read_linear(dense: Dense) -> Linear:
    """Read the weights of a Dense. Raises ExportError."""
    tensors = _read(dense.weights, dense)
    weight = tensors.get(LINEAR)
    expected = (dense.out_features, dense.in_features)
    if weight is None or tuple(weight.shape) != expected:
        found = "none" if weight is None else list(weight.shape)
        raise ExportError(f"{dense.weights}: expected {LINEAR} of shape {list(expected)}, found {found}")
    bias, residual = (tensors.get(name) for name in ("linear.bias", "residual.weight"))
    return Linear(
        dense,
        _array(weight.T),
        None if bias is None else _array(bias),
        None if residual is None else _array(residual.T),
    )


def apply(linear: Linear, states: torch.Tensor) -> torch.Tensor:
    """Return a layer's output for states [..., S], as PyLate computes it: [..., D]."""
    product = states @ torch.from_numpy(linear.weight)
    if linear.bias is not None:
        product = product + torch.from_numpy(linear.bias)
    result: torch.Tensor = _FUNCTIONS[linear.dense.activation](product)
    if not linear.dense.has_residual:
        return result
    return result + (states if linear.residual is None else states @ torch.from_numpy(linear.residual))


def as_module(module: Module, width: int) -> Any:
    """Return a module of a chain as one of sentence-transformers. `width`: of the token states."""
    if isinstance(module, Dense):
        return modules.Dense.load(str(module.weights.parent))
    if isinstance(module, Pooling):
        return modules.Pooling(width, [_MODES[mode] for mode in module.modes])
    return modules.Normalize()


def _read(path: Path, dense: Dense) -> dict[str, torch.Tensor]:
    """Return the tensors that belong to a Dense, which may share the file with others."""
    names = [LINEAR, *(["linear.bias"] if dense.has_bias else []), *(["residual.weight"] if dense.has_residual else [])]
    try:
        if path.suffix != ".safetensors":  # only if the caller trusts it; no code of the pickle is run
            stored = torch.load(path, map_location="cpu", weights_only=True)
            return {name: stored[name] for name in names if name in stored}
        with safe_open(path, framework="pt") as file:  # numpy has no bfloat16
            return {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ExportError(f"{path}: expected the weights of a Dense, found {error}") from error


def _array(tensor: torch.Tensor) -> F32:
    array: F32 = np.ascontiguousarray(tensor.detach().float().numpy())
    return array
