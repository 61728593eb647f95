"""Optimum's configuration of a body: the inputs and outputs of its graph."""

import inspect
from typing import Final

from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from transformers import PretrainedConfig, PreTrainedModel

from export.errors import ExportError

_AXES: Final = {0: "batch_size", 1: "sequence_length"}
# Inputs that servers have. Position ids are computed in the graph.
_SERVED: Final = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
# Architectures without a configuration in Optimum whose inputs are those of BERT or RoBERTa.
_LIKE_BERT: Final = {"ernie"}
_LIKE_ROBERTA: Final = {"roberta-prelayernorm", "umt5", "xlm-roberta-xl"}
# Architectures whose graph Optimum writes, but a wrong one.
_ONE_LENGTH: Final = {"longformer", "led"}


class _TextConfig(TextEncoderOnnxConfig):  # type: ignore[misc] # Optimum has no types
    """A configuration whose inputs are those of a text alone."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    def __init__(self, config: PretrainedConfig, task: str, names: tuple[str, ...]) -> None:
        self._names = names
        super().__init__(config, task=task)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {name: _AXES for name in self._names}


def onnx_config(model: PreTrainedModel, task: str) -> OnnxConfig:
    """Return the configuration with which Optimum exports a model.

    It is Optimum's own if its inputs are those that servers have. Other inputs, such as the ids of a decoder or the
    coordinates of words on a page, are left to the model, which then has its default for them, as in the reference.

    Raises ExportError for an architecture that Optimum does not know.
    """
    kind = model.config.model_type
    if kind in _ONE_LENGTH:
        raise ExportError(
            f"{kind}: Optimum exports attention in windows as a graph for texts of one length only, so this "
            "architecture is not supported; choose a model of another architecture"
        )
    if kind in _LIKE_BERT:
        return _TextConfig(model.config, task, ("input_ids", "attention_mask", "token_type_ids"))
    if kind in _LIKE_ROBERTA:
        return _TextConfig(model.config, task, ("input_ids", "attention_mask"))
    config = _configured(model, task)
    others = set(config.inputs) - _SERVED
    if not others:
        return config
    names = [name for name in inspect.signature(model.forward).parameters if name in set(config.inputs) & _SERVED]
    return _TextConfig(model.config, task, tuple(names))


def _configured(model: PreTrainedModel, task: str) -> OnnxConfig:
    """Return Optimum's own configuration. Raises ExportError."""
    try:
        construct = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task=task, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise ExportError(
            f"{model.config.model_type}: Optimum has no ONNX configuration for this architecture and the task {task}, "
            "so it cannot be exported; choose a model of another architecture"
        ) from error
    config: OnnxConfig = construct(model.config, task=task)
    return config
