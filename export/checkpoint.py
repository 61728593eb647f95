"""Reading of what a checkpoint states about itself: task, pooling, prompts, lengths, license.

Rule: reads only metadata, no weights. A checkpoint that needs code or a pickle of its own is rejected.

Facts: sentence-transformers describes a model in modules.json (a chain of modules), <pooling>/config.json,
sentence_bert_config.json (longest input) and config_sentence_transformers.json (prompts, similarity). PyLate adds
query_prefix and document_prefix to the last; a ColBERT checkpoint without modules has its projection as
`linear.weight` among the weights, and marks queries and documents with [unused0] and [unused1]. An inference-free
sparse encoder is one module, a Router: router_config.json names the folders of the modules of each route, a table of
weights for queries and a masked language model for documents.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.repocard import metadata_load
from safetensors import SafetensorError, safe_open

Task = Literal["bi-encoder", "cross-encoder", "sparse", "late-interaction"]
Pooling = Literal["mean", "cls", "last-token", "max"]
Similarity = Literal["cosine", "dot", "l2"]

_POOLING_NAMES: Final[dict[str, Pooling]] = {"mean": "mean", "cls": "cls", "lasttoken": "last-token", "max": "max"}
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
# Chains of modules that a graph's head can express, and their tasks.
_CHAINS: Final[dict[tuple[str, ...], Task]] = {
    _MODULES: "bi-encoder",
    _MODULES[:2]: "bi-encoder",
    ("Transformer", "SpladePooling"): "sparse",
    ("MLMTransformer", "SpladePooling"): "sparse",
    ("Transformer", "Dense"): "late-interaction",
}
_SPLADE_CHAINS: Final = tuple(chain for chain, task in _CHAINS.items() if task == "sparse")
_QUERY_WEIGHTS: Final = "model.safetensors"
_LIBRARIES: Final = ("sentence_transformers.", "pylate.")
PROJECTION: Final = "linear.weight"
_MARKERS: Final = ("[unused0] ", "[unused1] ")
_SIMILARITIES: Final[dict[str, Similarity]] = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
_SAFE_FILES: Final = ["*.json", "*.txt", "*.md", "*.safetensors", "sentencepiece.bpe.model", "spiece.model"]
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OFFSET_POSITIONS: Final = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
# Limit for checkpoints that state none: attention is quadratic, and longer input seldom helps.
_FALLBACK_LENGTH: Final = 512


class ExportError(Exception):
    """A checkpoint that cannot become a bundle. The message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk and what it states about itself."""

    folder: Path
    name: str
    """Hub id, or name of the folder."""
    revision: str
    """Commit, or `sha256:` and the hash of the weights."""
    licence: str
    task: Task
    architecture: str
    pooling: Pooling
    normalize: bool
    similarity: Similarity
    query_prompt: str
    document_prompt: str
    max_token_count: int
    position_count: int | None
    """Longest input that the model has positions for; None if it has no such limit."""
    labels: tuple[str, ...]
    """Names of a cross-encoder's logits."""
    has_modules: bool
    """Whether sentence-transformers wrote it; then the model that it loads is the reference."""
    trust_pickle: bool
    query_weights: Path | None = None
    """Safetensors with `weight` [V], the weights of query terms; None if the model computes them."""


@dataclass(frozen=True)
class _Routes:
    """The folders of a Router's modules."""

    query: Path
    document: Path
    pooling: Path


def read_checkpoint(source: str, *, revision: str | None = None, trust_pickle: bool = False) -> Checkpoint:
    """Read the checkpoint in a local folder, or download it by its hub id. Raises ExportError."""
    folder = Path(source)
    if folder.is_dir():
        name, commit = folder.resolve().name, ""
    else:
        folder = _download(source, revision, trust_pickle=trust_pickle)
        name, commit = source, folder.name
    top, routes = folder, _routes(folder)
    folder = routes.document if routes else folder
    weights = _weights(folder, trust_pickle=trust_pickle)
    query_weights = routes.query / _QUERY_WEIGHTS if routes else None
    config = _json(folder / "config.json", needed=True)
    modules = [] if routes else _modules(folder)
    architecture = (config.get("architectures") or ["unknown"])[0]
    task = _task(modules, architecture, weights)
    pooling, normalize = _pooling(folder, modules) if task == "bi-encoder" else ("mean", False)
    card = _json(top / "config_sentence_transformers.json")
    query_prompt, document_prompt = _prompts(card, is_plain_colbert=task == "late-interaction" and not modules)
    return Checkpoint(
        folder=folder,
        name=name,
        revision=commit or f"sha256:{_hash([*weights, *([query_weights] if query_weights else [])])}",
        licence=_licence(top),
        task=task,
        architecture=architecture,
        pooling=pooling,
        normalize=normalize,
        similarity=_similarity(card, normalize=normalize) if task == "bi-encoder" else "cosine",
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_token_count=_max_token_count(folder, config),
        position_count=_position_count(config),
        labels=_labels(config) if task == "cross-encoder" else (),
        has_modules=bool(modules),
        trust_pickle=trust_pickle,
        query_weights=query_weights,
    )


def _routes(folder: Path) -> _Routes | None:
    """Return the folders of a Router's modules; None if the checkpoint is not a Router. Raises ExportError."""
    path = folder / "router_config.json"
    if not path.exists():
        return None
    config = _json(path)
    routes = [config.get("structure", {}).get(route, []) for route in ("query", "document")]
    kinds = [[str(config.get("types", {}).get(name, "")).rpartition(".")[2] for name in route] for route in routes]
    if kinds[0] != ["SparseStaticEmbedding"] or tuple(kinds[1]) not in _SPLADE_CHAINS:
        raise ExportError(
            f"{path}: expected queries by SparseStaticEmbedding and documents by a masked language model with "
            f"SpladePooling, found queries by {', '.join(kinds[0])} and documents by {', '.join(kinds[1])}"
        )
    found = _Routes(folder / routes[0][0], folder / routes[1][0], folder / routes[1][1])
    if not (found.query / _QUERY_WEIGHTS).exists():
        raise ExportError(f"{found.query}: expected the weights of query terms in {_QUERY_WEIGHTS}, found none")
    _check_splade(found.pooling / "config.json")
    return found


def _download(source: str, revision: str | None, *, trust_pickle: bool) -> Path:
    patterns = [*_SAFE_FILES, "*.bin"] if trust_pickle else _SAFE_FILES
    # Other formats of the same weights, kept in folders by convention.
    others = ["onnx/*", "openvino/*", "coreml/*"]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns=others))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ExportError(
            f"{source}: expected a folder, or the id of a model on a hub that can be reached; found neither: {error}"
        ) from error


def _weights(folder: Path, *, trust_pickle: bool) -> list[Path]:
    """Files of weights, safetensors before all. Raises ExportError when there are only pickles, or none."""
    if found := sorted(folder.glob("*.safetensors")):
        return found
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles and trust_pickle:
        return pickles
    if pickles:
        raise ExportError(
            f"{folder}: expected weights as safetensors, found {pickles[0].name}: a pickle can run code when it is "
            "loaded. Convert it with `safetensors`, ask its author to, or name it as trusted with --trust-pickle"
        )
    raise ExportError(f"{folder}: expected weights (*.safetensors), found none")


def _modules(folder: Path) -> list[dict[str, Any]]:
    """modules.json; empty without it. Raises ExportError for a chain that the graph's head cannot express."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    modules: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    kinds = [str(module.get("type", "")) for module in modules]
    if any(not kind.startswith(_LIBRARIES) for kind in kinds) or _names(modules) not in _CHAINS:
        raise ExportError(
            f"{path}: expected Transformer, Pooling and perhaps Normalize; Transformer and SpladePooling; or "
            f"Transformer and Dense; found {', '.join(kinds)}"
        )
    if _names(modules)[-1] == "SpladePooling":
        _check_splade(folder / modules[-1]["path"] / "config.json")
    return modules


def _names(modules: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(str(module.get("type", "")).rpartition(".")[2] for module in modules)


def _check_splade(path: Path) -> None:
    """Raise ExportError if the pooling differs from that of the graph's head."""
    config = _json(path, needed=True)
    found = (config.get("pooling_strategy", "max"), config.get("activation_function", "relu"))
    if found != ("max", "relu"):
        raise ExportError(f"{path}: expected max pooling of relu, found {found[0]} of {found[1]}")


def _task(modules: list[dict[str, Any]], architecture: str, weights: list[Path]) -> Task:
    """Return the task that the modules state, else the one that the architecture and the names of the weights imply."""
    if modules:
        return _CHAINS[_names(modules)]
    if architecture.endswith("ForSequenceClassification"):
        return "cross-encoder"
    if any(has_projection(path) for path in weights):
        return "late-interaction"
    return "sparse" if architecture.endswith("ForMaskedLM") else "bi-encoder"


def has_projection(path: Path) -> bool:
    """Return whether a weights file has the projection of a ColBERT model. Reads only the file's index."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            return PROJECTION in file.keys()  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: expected safetensors, found {error}") from error


def _prompts(card: dict[str, Any], *, is_plain_colbert: bool) -> tuple[str, str]:
    """Return the prompts before queries and documents."""
    if is_plain_colbert:
        return _MARKERS
    prompts = card.get("prompts") or {}
    document = prompts.get("document", prompts.get("passage", ""))
    return card.get("query_prefix") or prompts.get("query", ""), card.get("document_prefix") or document


def _pooling(folder: Path, modules: list[dict[str, Any]]) -> tuple[Pooling, bool]:
    """Return pooling and normalization; without modules, sentence-transformers' default: mean, not normalized."""
    if not modules:
        return "mean", False
    path = folder / modules[1]["path"] / "config.json"
    config = _json(path, needed=True)
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


def _similarity(card: dict[str, Any], *, normalize: bool) -> Similarity:
    """Return the stated similarity; else cosine, which on unit vectors equals the dot product of most training."""
    stated = card.get("similarity_fn_name")
    if normalize or stated is None:
        return "cosine"
    if stated not in _SIMILARITIES:
        raise ExportError(f"expected a similarity of {', '.join(_SIMILARITIES)}, found {stated}; name one")
    return _SIMILARITIES[stated]


def _max_token_count(folder: Path, config: dict[str, Any]) -> int:
    """Return the longest input: the minimum of the limits of sentence-transformers, the tokenizer and the positions."""
    limits = [
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        _json(folder / "tokenizer_config.json").get("model_max_length"),
        _position_count(config),
    ]
    # Tokenizers without a limit state one of 1e30.
    return min((int(limit) for limit in limits if limit and limit < 2**20), default=_FALLBACK_LENGTH)


def _position_count(config: dict[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    # RoBERTa and related models count positions from pad_token_id + 1.
    return positions - 2 if config.get("model_type") in _OFFSET_POSITIONS else positions


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label") or {}
    count = len(names) or int(config.get("num_labels", 2))
    return tuple(str(names.get(str(index), f"LABEL_{index}")) for index in range(count))


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    stated = (metadata_load(card) or {}).get("license") if card.exists() else None
    return stated if isinstance(stated, str) and stated else "unknown"


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no file. Raises ExportError."""
    if not path.exists() and not needed:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path}: expected an object, found {type(value).__name__}")
    return value
