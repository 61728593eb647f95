"""Reading of the linear projection of a ColBERT checkpoint, in both of its layouts.

Rule: safetensors only. A projection with a bias, an activation or a residual is rejected, because the head has none.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from export.checkpoint.files import PROJECTION, has_projection
from export.errors import ExportError

_WEIGHTS: Final = "model.safetensors"


def read_projection(folder: Path, *, width: int) -> NDArray[np.float32]:
    """Return the matrix that token states are multiplied by: float32 [width, D]. Raises ExportError."""
    path = _file(folder)
    try:
        with safe_open(path, framework="pt") as file:  # numpy has no bfloat16
            names = set(file.keys())
            if "linear.bias" in names:
                raise ExportError(f"{path}: expected a projection without bias, found linear.bias")
            matrix: NDArray[np.float32] = file.get_tensor(PROJECTION).float().numpy()
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: expected {PROJECTION}, found {error}") from error
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise ExportError(f"{path}: expected {PROJECTION} of shape [D, {width}], found {list(matrix.shape)}")
    return np.ascontiguousarray(matrix.T)


def _file(folder: Path) -> Path:
    """Return the file with the projection: that of a Dense module, or one of the checkpoint's weights."""
    modules = folder / "modules.json"
    if modules.exists():
        dense = folder / str(json.loads(modules.read_text(encoding="utf-8"))[-1]["path"])
        _check_dense(dense / "config.json")
        return dense / _WEIGHTS
    for path in sorted(folder.glob("*.safetensors")):
        if has_projection(path):
            return path
    raise ExportError(f"{folder}: expected a projection named {PROJECTION} in the safetensors, found none")


def _check_dense(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    activation = str(config.get("activation_function", "Identity"))
    if config.get("bias") or config.get("use_residual") or not activation.endswith("Identity"):
        raise ExportError(
            f"{path}: expected a projection alone, found bias {config.get('bias')}, activation {activation}, "
            f"residual {config.get('use_residual', False)}"
        )
