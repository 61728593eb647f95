"""Graphs as files: one protobuf, or a second file with the weights if they are too large for it."""

from pathlib import Path
from typing import Final

import onnx

# A protobuf holds 2 GiB. The structure of a graph with thousands of operators takes a few MiB of it.
MOST_WEIGHT_BYTES: Final = 2**31 - 2**26
_WEIGHTS: Final = ".data"


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph to NAME.onnx. Weights of more than about 2 GiB go to NAME.onnx.data and are removed from `model`.

    ONNX calls this external data; ONNX Runtime finds the file by its name, in the same folder.
    """
    onnx.save(model, path, save_as_external_data=not is_one_file(model), location=f"{path.name}{_WEIGHTS}")


def is_one_file(model: onnx.ModelProto) -> bool:
    """Return whether a graph and its weights fit into one protobuf."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= MOST_WEIGHT_BYTES


def remove_graph(path: Path) -> None:
    """Remove NAME.onnx, and NAME.onnx.data if it exists."""
    path.unlink()
    path.with_name(f"{path.name}{_WEIGHTS}").unlink(missing_ok=True)
