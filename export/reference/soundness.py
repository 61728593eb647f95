"""Checks of a loaded model: a checkpoint that contradicts itself would give a reference of random or broken outputs."""

import ast
import inspect
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from export.checkpoint.description import Checkpoint
from export.errors import ExportError

_LOADER: Final = "transformers.modeling_utils"
_MISSING: Final = re.compile(r"newly initialized: (\[.*?\])", re.DOTALL)
_UNUSED: Final = re.compile(r"were not used when initializing \w+: (\[.*?\])", re.DOTALL)
# Values that models compute anew.
_COMPUTED: Final = ("position_ids", "inv_freq", "masked_bias")


class _Messages(logging.Handler):
    """A handler that keeps messages."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def recorded_weights() -> Iterator[dict[str, list[str]]]:
    """Record which weights transformers draws at random, `missing`, and which it ignores, `unused`, in the block.

    transformers only logs them, and draws missing weights at random.
    """
    found: dict[str, list[str]] = {"missing": [], "unused": []}
    logger, handler = logging.getLogger(_LOADER), _Messages()
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for key, pattern in (("missing", _MISSING), ("unused", _UNUSED)):
            found[key] += [name for text in handler.texts for match in pattern.findall(text) for name in _names(match)]


def _names(text: str) -> list[str]:
    names: list[str] = ast.literal_eval(text)
    return names


def check_weights(checkpoint: Checkpoint, body: torch.nn.Module, weights: dict[str, list[str]]) -> None:
    """Raise ExportError if weights were drawn at random, ignored although the model has their layer, or not finite.

    Without a use for it, a pooler may be random: bi-encoders and sparse encoders use token states.
    """
    missing = [name for name in weights["missing"] if checkpoint.task == "cross-encoder" or "pooler." not in name]
    if missing:
        raise ExportError(
            f"{checkpoint.folder}: expected weights for {_some(missing)}, found none: transformers would draw them at "
            f"random. The checkpoint is damaged, or not a {checkpoint.task}: name its task with --task"
        )
    if unused := _contradicting(body, weights["unused"]):
        raise ExportError(
            f"{checkpoint.folder}: expected only weights that config.json describes, found {_some(unused)}: the "
            "weights contradict config.json, for example in the number of layers"
        )
    broken = [name for name, value in body.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ExportError(f"{checkpoint.folder}: expected numbers as weights, found NaN or infinity in {_some(broken)}")


def _contradicting(body: torch.nn.Module, unused: Iterable[str]) -> list[str]:
    """Return the unused weights whose module exists in the model, perhaps in another layer.

    Heads of other tasks are no contradiction: their modules do not exist.
    """
    modules = {_pattern(name) for name, _ in body.named_modules()}
    prefix = f"{getattr(body, 'base_model_prefix', '')}."
    found = []
    for name in unused:
        module = _pattern(name.removeprefix(prefix).rpartition(".")[0])
        if module in modules and not name.endswith(_COMPUTED):
            found.append(name)
    return found


def _pattern(name: str) -> str:
    """Return the name of a module or weight without the numbers of layers."""
    return re.sub(r"\d+", "#", name)


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def check_model(checkpoint: Checkpoint, body: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ExportError unless the model reads text, has layers, and has an embedding for each token."""
    inputs = list(inspect.signature(body.forward).parameters)
    if "input_ids" not in inputs:
        raise ExportError(f"{checkpoint.folder}: expected a model of texts, found one that reads {inputs[0]}")
    layers = _layer_count(body.config)
    if layers == 0:
        raise ExportError(f"{checkpoint.folder}/config.json: expected a model with layers, found one with 0 layers")
    rows = _embedding_count(body)
    last = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and last >= rows:
        raise ExportError(
            f"{checkpoint.folder}: expected a tokenizer of the model's {rows} tokens, found one with the id {last}: it "
            "belongs to another model"
        )


def _layer_count(config: Any) -> int | None:
    found = getattr(config, "num_hidden_layers", None)
    return found if isinstance(found, int) else None


def _embedding_count(body: PreTrainedModel) -> int | None:
    try:
        weight = getattr(body.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return None if weight is None else int(weight.shape[0])


def accepted_inputs(body: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the names of the tokenizer's outputs that the model has as inputs."""
    inputs = inspect.signature(body.forward).parameters
    return [name for name in tokenizer.model_input_names if name in inputs]
