"""Merging of LoRA adapters into the weights of a model, which then needs no adapter.

Facts: PEFT names the weights after the layers of the base model. A linear layer M has `M.lora_A.weight` [r, in] and
`M.lora_B.weight` [out, r], an embedding `M.lora_embedding_A` [r, V] and `M.lora_embedding_B` [D, r], and DoRA adds
`M.lora_magnitude_vector` [out]. A parameter that was trained as a whole, such as a classifier's, has its own name.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from export.checkpoint.adapter import Adapter
from export.errors import ExportError

# What PEFT and sentence-transformers put before the names of the base model.
_WRAPPERS: Final = ("base_model.model.", "0.auto_model.")
_LOW_RANK: Final = re.compile(r"(.+)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.weight)?")
_LINEAR, _EMBEDDING, _MAGNITUDES = (
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    "lora_magnitude_vector",
)


def merge_adapters(model: PreTrainedModel, adapters: Sequence[Adapter]) -> set[str]:
    """Add the change of each adapter, times its weight, to the parameters, and return those that are replaced.

    A replaced parameter, such as a classifier's, does not depend on the original. Every change is computed from the
    original parameters, so the order does not matter. Raises ExportError for an adapter that does not fit the model;
    the model is then unchanged.
    """
    total: dict[str, Tensor] = {}
    replaced = set()
    for adapter in adapters:
        for name, change, is_whole in _Merge(model, adapter).changes():
            if is_whole and adapter.weight == 1 and name not in total:
                replaced.add(name)
            else:
                replaced.discard(name)
            total[name] = total.get(name, torch.zeros(())) + adapter.weight * change
    with torch.no_grad():
        for name, change in total.items():
            model.get_parameter(name).add_(change)
    return replaced


class _Merge:
    """One adapter and the model that it changes."""

    def __init__(self, model: PreTrainedModel, adapter: Adapter) -> None:
        self._model, self._adapter = model, adapter
        self._parameters = dict(model.named_parameters(remove_duplicate=False))

    def changes(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Yield name, change, and whether it is replaced as a whole, of each parameter. Raises ExportError."""
        layers: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in self._read().items():
            if match := _LOW_RANK.fullmatch(key):
                layers[match[1]][match[2]] = tensor
            elif ".lora_" in key:
                raise self._error(key, "expected a pair of matrices, lora_A and lora_B; this part cannot be merged")
            else:
                name = self._find(key.replace(".base_layer.", "."))
                original = self._parameters[name].detach()
                self._check_shape(key, tensor, original)
                yield name, tensor - original, True
        for layer, parts in layers.items():
            yield self._find(f"{layer}.weight"), self._low_rank(layer, parts), False

    def _read(self) -> dict[str, Tensor]:
        """Return the weights, float32, by their names in the base model."""
        try:
            with safe_open(self._adapter.weights, framework="pt") as file:
                tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise ExportError(f"{self._adapter.weights}: expected safetensors, found {error}") from error
        if not tensors:
            raise ExportError(f"{self._adapter.weights}: expected the weights of an adapter, found none")
        for key, tensor in tensors.items():
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise self._error(key, "expected finite floating-point numbers, found others")
        return {_unwrapped(key): tensor.float() for key, tensor in tensors.items()}

    def _low_rank(self, layer: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the change of a layer's weights, in their own layout."""
        name = self._find(f"{layer}.weight")
        module = self._model.get_submodule(name.removesuffix(".weight"))
        pair = _EMBEDDING if isinstance(module, nn.Embedding) else _LINEAR
        expected = {*pair, _MAGNITUDES} if self._adapter.has_magnitudes else set(pair)
        if not isinstance(module, nn.Embedding | nn.Linear | Conv1D) or parts.keys() != expected:
            raise self._error(
                layer,
                f"expected {', '.join(sorted(expected))} of a linear layer or an embedding, found "
                f"{', '.join(sorted(parts))}",
            )
        original = module.weight.detach()
        change = self._product(layer, *(parts[part] for part in pair))
        # A Conv1D of GPT-2 and an embedding keep their weights as [in, out].
        is_transposed = not isinstance(module, nn.Linear)
        self._check_shape(layer, change.T if is_transposed else change, original)
        if self._adapter.has_magnitudes:
            change = self._rescaled(layer, original.T if is_transposed else original, change, parts[_MAGNITUDES])
        return change.T if is_transposed else change

    def _product(self, layer: str, a: Tensor, b: Tensor) -> Tensor:
        """Return the scaled product of the two matrices, [out, in]."""
        rank = self._adapter.rank_of(layer)
        if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
            found = f"{list(a.shape)} and {list(b.shape)}"
            raise self._error(layer, f"expected matrices [{rank}, in] and [out, {rank}] of rank {rank}, found {found}")
        return self._adapter.scale_of(layer) * (b @ a)

    def _rescaled(self, layer: str, original: Tensor, change: Tensor, magnitudes: Tensor) -> Tensor:
        """Return the change after which each output channel of the weights [out, in] has the length in magnitudes."""
        self._check_shape(f"{layer}.{_MAGNITUDES}", magnitudes, original[:, 0])
        merged = original + change
        return magnitudes[:, None] * nn.functional.normalize(merged) - original

    def _find(self, stated: str) -> str:
        """Return the model's name of a parameter, which may have the name of the model's body before it, or not."""
        body = f"{getattr(self._model, 'base_model_prefix', '')}."
        for name in (stated, stated.removeprefix(body), body + stated):
            if name in self._parameters:
                return self._unshared(name)
        raise self._error(
            stated,
            "expected a parameter of the model, found none of this name. Is the adapter made for "
            f"another model? It states {self._adapter.base_model}",
        )

    def _unshared(self, name: str) -> str:
        parameter = self._parameters[name]
        for other, value in self._parameters.items():
            if value is parameter and other != name:
                raise self._error(name, f"{other} shares these weights, and the adapter is only for one of the two")
        return name

    def _check_shape(self, key: str, found: Tensor, expected: Tensor) -> None:
        if found.shape != expected.shape:
            raise self._error(
                key,
                f"expected the shape {list(expected.shape)} of the model's weights, found {list(found.shape)}. "
                f"Is the adapter made for another model? It states {self._adapter.base_model}",
            )

    def _error(self, key: str, problem: str) -> ExportError:
        return ExportError(f"{self._adapter.weights}: {key}: {problem}")


def _unwrapped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    return key
