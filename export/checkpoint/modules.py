"""The chain of modules in which sentence-transformers and PyLate describe a model.

Facts: sentence-transformers writes modules.json, a list of modules, and a config.json in the folder of each. An
inference-free sparse encoder is one module, a Router: router_config.json names the folders of the modules of each
route, a table of weights for queries and a masked language model for documents.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from export.checkpoint.description import Pooling, Task
from export.checkpoint.files import read_json
from export.errors import ExportError

_POOLING_NAMES: Final[dict[str, Pooling]] = {"mean": "mean", "cls": "cls", "lasttoken": "last-token", "max": "max"}
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
# Chains of modules that a graph's head can express, and their tasks.
CHAINS: Final[dict[tuple[str, ...], Task]] = {
    _MODULES: "bi-encoder",
    _MODULES[:2]: "bi-encoder",
    ("Transformer", "SpladePooling"): "sparse",
    ("MLMTransformer", "SpladePooling"): "sparse",
    ("Transformer", "Dense"): "late-interaction",
}
_SPLADE_CHAINS: Final = tuple(chain for chain, task in CHAINS.items() if task == "sparse")
QUERY_WEIGHTS: Final = "model.safetensors"
_LIBRARIES: Final = ("sentence_transformers.", "pylate.")


@dataclass(frozen=True)
class Routes:
    """The folders of a Router's modules."""

    query: Path
    document: Path
    pooling: Path


def read_routes(folder: Path) -> Routes | None:
    """Return the folders of a Router's modules; None if the checkpoint is not a Router. Raises ExportError."""
    path = folder / "router_config.json"
    if not path.exists():
        return None
    config = read_json(path)
    routes = [config.get("structure", {}).get(route, []) for route in ("query", "document")]
    kinds = [[str(config.get("types", {}).get(name, "")).rpartition(".")[2] for name in route] for route in routes]
    if kinds[0] != ["SparseStaticEmbedding"] or tuple(kinds[1]) not in _SPLADE_CHAINS:
        raise ExportError(
            f"{path}: expected queries by SparseStaticEmbedding and documents by a masked language model with "
            f"SpladePooling, found queries by {', '.join(kinds[0])} and documents by {', '.join(kinds[1])}"
        )
    found = Routes(folder / routes[0][0], folder / routes[1][0], folder / routes[1][1])
    if not (found.query / QUERY_WEIGHTS).exists():
        raise ExportError(f"{found.query}: expected the weights of query terms in {QUERY_WEIGHTS}, found none")
    _check_splade(found.pooling / "config.json")
    return found


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Read modules.json; empty without it. Raises ExportError for a chain that the graph's head cannot express."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    modules: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    kinds = [str(module.get("type", "")) for module in modules]
    if any(not kind.startswith(_LIBRARIES) for kind in kinds) or names_of(modules) not in CHAINS:
        raise ExportError(
            f"{path}: expected Transformer, Pooling and perhaps Normalize; Transformer and SpladePooling; or "
            f"Transformer and Dense; found {', '.join(kinds)}"
        )
    if names_of(modules)[-1] == "SpladePooling":
        _check_splade(folder / modules[-1]["path"] / "config.json")
    return modules


def names_of(modules: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the classes of modules, without their packages."""
    return tuple(str(module.get("type", "")).rpartition(".")[2] for module in modules)


def _check_splade(path: Path) -> None:
    """Raise ExportError if the pooling differs from that of the graph's head."""
    config = read_json(path, needed=True)
    found = (config.get("pooling_strategy", "max"), config.get("activation_function", "relu"))
    if found != ("max", "relu"):
        raise ExportError(f"{path}: expected max pooling of relu, found {found[0]} of {found[1]}")


def read_pooling(folder: Path, modules: list[dict[str, Any]]) -> tuple[Pooling, bool]:
    """Return pooling and normalization; without modules, sentence-transformers' default: mean, not normalized."""
    if not modules:
        return "mean", False
    path = folder / modules[1]["path"] / "config.json"
    config = read_json(path, needed=True)
    stated = config.get("pooling_mode")  # since sentence-transformers 5.6; older versions have a flag per mode
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    modes = flags if stated is None else [stated] if isinstance(stated, str) else list(stated)
    # "pooling_mode_mean_tokens", "pooling_mode_cls_token" and "pooling_mode_lasttoken" were the flags
    names = [
        _POOLING_NAMES.get(mode.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token"))
        for mode in modes
    ]
    if len(names) != 1 or names[0] is None:
        raise ExportError(f"{path}: expected one of mean, cls, last-token or max pooling, found {', '.join(modes)}")
    return names[0], len(modules) == len(_MODULES)
