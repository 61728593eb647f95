"""The chain of modules in which sentence-transformers and PyLate describe a model.

Facts: sentence-transformers writes modules.json, a list of modules, and a config.json in the folder of each. An
inference-free sparse encoder is one module, a Router: router_config.json names the folders of the modules of each
route, a table of weights for queries and a masked language model for documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

from export.checkpoint.chain import (
    CHAINS,
    Chain,
    Module,
    Normalize,
    Pooling,
    PoolingMode,
    SpladePooling,
    StaticLayout,
    Task,
    task_of,
)
from export.checkpoint.dense import read_dense, read_projection
from export.checkpoint.files import WEIGHTS, read_json, read_settings, shapes_of
from export.errors import ExportError

_STATIC: Final = "StaticEmbedding"
_BODIES: Final = ("Transformer", "MLMTransformer", _STATIC)
_FOLLOWING: Final = ("Pooling", "Dense", "Normalize", "SpladePooling")
_DOCUMENT_ROUTES: Final = (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"])
LOGIT_SCORE: Final = "LogitScore"
# A CrossEncoder's modules. LogitScore: the logit of a token that a language model answers with.
_RERANKERS: Final[dict[tuple[str, ...], Task]] = {
    ("Transformer",): "cross-encoder",
    ("Transformer", LOGIT_SCORE): "yes-no-reranker",
}
_LIBRARIES: Final = ("sentence_transformers.", "pylate.")
# Names of sentence-transformers. Versions before 5.6 have a flag for each mode, in this order of concatenation.
_MODES: Final[dict[str, PoolingMode]] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt-len",
    "weightedmean": "weighted-mean",
    "lasttoken": "last-token",
}
_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class _PoolingSettings(BaseModel, extra="allow"):
    pooling_mode: str | list[str] | None = None
    embedding_dimension: int | None = Field(
        None, validation_alias=AliasChoices("embedding_dimension", "word_embedding_dimension")
    )
    include_prompt: bool = True


class _SpladeSettings(BaseModel):
    pooling_strategy: Literal["max", "sum"] = "max"
    activation_function: Literal["relu", "log1p_relu"] = "relu"


class _RouterSettings(BaseModel):
    types: dict[str, str]
    """Class of each module, by the name of its folder."""
    structure: dict[str, list[str]]
    """Modules of each route."""


class _Entry(BaseModel):
    path: str
    type: str


@dataclass(frozen=True)
class Modules:
    """The modules of a checkpoint."""

    body: Path
    """Folder of the transformer, or of a static embedding's table."""
    chain: Chain
    task: Task
    static: StaticLayout | None = None
    """Layout of the table of a static embedding, whose body is no transformer; None for a transformer."""
    query_weights: Path | None = None
    """Safetensors with `weight` [V], the weights of query terms; None if the model computes them."""


def find_modules(folder: Path, *, trust_pickle: bool) -> Modules | None:
    """Return the modules that a checkpoint states; None if it is a transformer alone. Raises ExportError."""
    if (path := folder / "router_config.json").exists():
        return _read_router(path)
    if (path := folder / "modules.json").exists():
        return _read_modules(path, trust_pickle=trust_pickle)
    config = read_json(folder / "config.json")
    if config.get("model_type") == "model2vec":
        end = [Normalize()] if config.get("normalize") else []
        return Modules(folder, (_mean_of_table(folder), *end), "bi-encoder", "model2vec")
    return None


def _read_modules(path: Path, *, trust_pickle: bool) -> Modules:
    """Read modules.json. Raises ExportError for a chain that a graph's head cannot compute."""
    kinds, folders = _entries(path)
    names = [kind.rpartition(".")[2] for kind in kinds]
    is_known = bool(names) and names[0] in _BODIES and set(names[1:]) <= {*_FOLLOWING, LOGIT_SCORE}
    if not is_known or not all(kind.startswith(_LIBRARIES) for kind in kinds):
        raise _unsupported(path, kinds)
    if tuple(names) in _RERANKERS:
        return Modules(folders[0], (), _RERANKERS[tuple(names)])
    body, is_static = folders[0], names[0] == _STATIC
    rest = [_read(kind, at, trust_pickle=trust_pickle) for kind, at in zip(kinds[1:], folders[1:], strict=True)]
    chain = (_mean_of_table(body), *rest) if is_static else tuple(rest)
    task = task_of(chain)
    if task is None:
        raise _unsupported(path, kinds)
    return Modules(body, chain, task, _layout(body) if is_static else None)


def read_answers(folder: Path) -> tuple[int, int | None] | None:
    """Return the ids of the tokens that a CrossEncoder's LogitScore compares; None without it. Raises ExportError."""
    path = folder / "modules.json"
    kinds, folders = _entries(path) if path.exists() else ([], [])
    for kind, at in zip(kinds, folders, strict=True):
        if kind.rpartition(".")[2] == LOGIT_SCORE:
            config = read_json(at / "config.json", needed=True)
            return int(config.get("true_token_id", -1)), config.get("false_token_id")
    return None


def _mean_of_table(body: Path) -> Pooling:
    """Return the pooling of a static embedding."""
    shapes = shapes_of(body / WEIGHTS) if (body / WEIGHTS).exists() else {}
    return Pooling(("mean",), next((shape[1] for shape in shapes.values() if len(shape) == 2), None))


def _layout(body: Path) -> StaticLayout:
    """Return the layout of a table: arrays that only model2vec reads show its own."""
    names = set(shapes_of(body / WEIGHTS)) if (body / WEIGHTS).exists() else set()
    return "model2vec" if names & {"mapping", "weights"} else "sentence-transformers"


def _read_router(path: Path) -> Modules:
    """Read the modules of a Router. Raises ExportError if it is not an inference-free sparse encoder."""
    config, folder = read_settings(path, _RouterSettings), path.parent
    stated = _entries(folder / "modules.json")[0] if (folder / "modules.json").exists() else ["Router"]
    if len(stated) > 1:
        raise ExportError(f"{folder}: expected a Router alone, found {', '.join(stated)}")
    routes = [config.structure.get(route, []) for route in ("query", "document")]
    kinds = [[config.types.get(name, "").rpartition(".")[2] for name in route] for route in routes]
    if kinds[0] != ["SparseStaticEmbedding"] or kinds[1] not in _DOCUMENT_ROUTES:
        raise ExportError(
            f"{path}: expected queries by SparseStaticEmbedding and documents by a masked language model with "
            f"SpladePooling, found queries by {', '.join(kinds[0])} and documents by {', '.join(kinds[1])}"
        )
    query, document, pooling = (_inside(folder, name) for name in (*routes[0], *routes[1]))
    if not (query / WEIGHTS).exists():
        raise ExportError(f"{query}: expected the weights of query terms in {WEIGHTS}, found none")
    chain = (_read_splade(pooling / "config.json"),)
    return Modules(document, chain, "sparse", query_weights=query / WEIGHTS)


def default_chain(task: Task, body: Path) -> Chain:
    """Return the chain of a checkpoint without modules; the default of sentence-transformers, where it has one."""
    if task == "bi-encoder":
        return (Pooling(("mean",)),)
    if task == "sparse":
        return (SpladePooling(),)
    if task == "late-interaction":
        return (read_projection(body),)
    return ()


def _entries(path: Path) -> tuple[list[str], list[Path]]:
    """Return the class and the folder of each module. Raises ExportError."""
    try:
        modules = TypeAdapter(list[_Entry]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ExportError(f"{path}: expected a list of objects with type and path") from error
    return [module.type for module in modules], [_inside(path.parent, module.path) for module in modules]


def _inside(folder: Path, name: str) -> Path:
    """Return a folder of the checkpoint. Raises ExportError if it lies elsewhere."""
    found = folder / name
    if not found.resolve().is_relative_to(folder.resolve()):
        raise ExportError(f"{folder}: expected a folder inside the checkpoint, found {name!r}")
    return found


def _unsupported(path: Path, kinds: Sequence[str]) -> ExportError:
    return ExportError(f"{path}: expected {CHAINS}; found {', '.join(kinds)}")


def _read(kind: str, folder: Path, *, trust_pickle: bool) -> Module:
    """Read one of the modules that may follow a body. Raises ExportError."""
    name = kind.rpartition(".")[2]
    if name == "Normalize":
        return Normalize()
    if name == "Pooling":
        return _read_pooling(folder / "config.json")
    if name == "SpladePooling":
        return _read_splade(folder / "config.json")
    return read_dense(folder, is_pylate=kind.startswith("pylate."), trust_pickle=trust_pickle)


def _read_pooling(path: Path) -> Pooling:
    config = read_settings(path, _PoolingSettings)
    stated = config.pooling_mode
    if stated is None:
        stated = [mode for flag, mode in _FLAGS.items() if (config.model_extra or {}).get(flag)] or "mean"
    names = [stated] if isinstance(stated, str) else stated
    modes = tuple(_MODES[name] for name in names if name in _MODES)
    if not modes or len(modes) < len(names):
        raise ExportError(f"{path}: expected poolings among {', '.join(_MODES)}, found {', '.join(names)}")
    return Pooling(modes, config.embedding_dimension, includes_prompt=config.include_prompt)


def _read_splade(path: Path) -> SpladePooling:
    config = read_settings(path, _SpladeSettings)
    return SpladePooling(config.pooling_strategy, 2 if config.activation_function == "log1p_relu" else 1)
