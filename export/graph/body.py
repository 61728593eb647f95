"""The body of a graph: the model as Optimum exports it."""

import warnings
from pathlib import Path
from typing import Final

from optimum.exporters.onnx import export as optimum_export
from optimum.exporters.tasks import TasksManager
from torch.jit._trace import TracerWarning
from transformers import PreTrainedModel

from export.errors import ExportError

# The head needs axes as inputs (18). TensorRT 10 reads up to 20.
OPSET: Final = 18


def export_body(model: PreTrainedModel, task: str, path: Path) -> None:
    """Write the graph of a torch model through Optimum, float32, with dynamic batch size and length.

    task   Optimum's: `feature-extraction` (token states), `fill-mask` (logits) or `text-classification` (logits)
    Raises ExportError for an architecture that Optimum does not know.
    """
    try:
        construct = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model=model, task=task, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise ExportError(f"{type(model).__name__}: expected an architecture that Optimum exports: {error}") from error
    config = construct(model.config, task=task)
    with warnings.catch_warnings():
        # Optimum exports through TorchScript, which is deprecated and whose tracer warns about constants. Parity is
        # measured afterwards.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        optimum_export(model, config, output=path, opset=max(OPSET, config.DEFAULT_ONNX_OPSET))
