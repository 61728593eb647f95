"""Reading of a checkpoint.

Facts: sentence-transformers describes a model in modules.json (see modules.py), sentence_bert_config.json (longest
input) and config_sentence_transformers.json (prompts, similarity). PyLate adds query_prefix and document_prefix to the
last; a ColBERT checkpoint without modules has its projection as `linear.weight` among the weights, and marks queries
and documents with [unused0] and [unused1].
"""

from pathlib import Path
from typing import Any, Final

from huggingface_hub.repocard import metadata_load

from export.checkpoint.adapter import refuse_adapter
from export.checkpoint.description import Checkpoint, Similarity, Task
from export.checkpoint.files import download, has_projection, hash_of, list_weights, read_json
from export.checkpoint.modules import CHAINS, QUERY_WEIGHTS, names_of, read_modules, read_pooling, read_routes
from export.errors import ExportError

_MARKERS: Final = ("[unused0] ", "[unused1] ")
_SIMILARITIES: Final[dict[str, Similarity]] = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
_OFFSET_POSITIONS: Final = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
# Limit for checkpoints that state none: attention is quadratic, and longer input seldom helps.
_FALLBACK_LENGTH: Final = 512


def read_checkpoint(source: str, *, revision: str | None = None, trust_pickle: bool = False) -> Checkpoint:
    """Read the checkpoint in a local folder, or download it by its hub id. Raises ExportError."""
    folder = Path(source)
    if folder.is_dir():
        name, commit = folder.resolve().name, ""
    else:
        folder = download(source, revision, trust_pickle=trust_pickle)
        name, commit = source, folder.name
    refuse_adapter(folder)
    top, routes = folder, read_routes(folder)
    folder = routes.document if routes else folder
    weights = list_weights(folder, trust_pickle=trust_pickle)
    query_weights = routes.query / QUERY_WEIGHTS if routes else None
    config = read_json(folder / "config.json", needed=True)
    modules = [] if routes else read_modules(folder)
    architecture = (config.get("architectures") or ["unknown"])[0]
    task = _task(modules, architecture, weights)
    pooling, normalize = read_pooling(folder, modules) if task == "bi-encoder" else ("mean", False)
    card = read_json(top / "config_sentence_transformers.json")
    query_prompt, document_prompt = _prompts(card, is_plain_colbert=task == "late-interaction" and not modules)
    return Checkpoint(
        folder=folder,
        name=name,
        revision=commit or f"sha256:{hash_of([*weights, *([query_weights] if query_weights else [])])}",
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


def _task(modules: list[dict[str, Any]], architecture: str, weights: list[Path]) -> Task:
    """Return the task that the modules state, else the one that the architecture and the names of the weights imply."""
    if modules:
        return CHAINS[names_of(modules)]
    if architecture.endswith("ForSequenceClassification"):
        return "cross-encoder"
    if any(has_projection(path) for path in weights):
        return "late-interaction"
    return "sparse" if architecture.endswith("ForMaskedLM") else "bi-encoder"


def _prompts(card: dict[str, Any], *, is_plain_colbert: bool) -> tuple[str, str]:
    """Return the prompts before queries and documents."""
    if is_plain_colbert:
        return _MARKERS
    prompts = card.get("prompts") or {}
    document = prompts.get("document", prompts.get("passage", ""))
    return card.get("query_prefix") or prompts.get("query", ""), card.get("document_prefix") or document


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
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
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
