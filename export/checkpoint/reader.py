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
from export.checkpoint.chain import Chain, Dense, Task, check_widths, is_normalized
from export.checkpoint.description import Checkpoint, Similarity
from export.checkpoint.files import (
    LINEAR,
    check_links,
    check_tokenizer,
    download,
    hash_of,
    list_weights,
    read_json,
    shapes_of,
)
from export.checkpoint.lengths import position_count
from export.checkpoint.modules import default_chain, find_modules
from export.errors import ExportError, cause

_MARKERS: Final = ("[unused0] ", "[unused1] ")
_SIMILARITIES: Final[dict[str, Similarity]] = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
# Limit for checkpoints that state none: attention is quadratic, and longer input seldom helps.
_FALLBACK_LENGTH: Final = 512
# Limit for static embeddings, which have none of their own. It bounds memory: 8,192 tokens of 1,024 dimensions take
# 32 MiB.
_STATIC_LENGTH: Final = 8192
_WIDTHS: Final = ("hidden_size", "d_model", "dim", "n_embd")


def read_checkpoint(source: str, *, revision: str | None = None, trust_pickle: bool = False) -> Checkpoint:
    """Read the checkpoint in a local folder, or download it by its hub id. Raises ExportError."""
    folder = Path(source)
    if folder.is_dir():
        name, commit = folder.resolve().name, ""
    else:
        folder = download(source, revision, trust_pickle=trust_pickle)
        name, commit = source, folder.name
    check_links(folder)
    try:
        return _read(folder, name, commit, trust_pickle=trust_pickle)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{folder}: expected JSON files as transformers and sentence-transformers write them, found a value of "
            f"another kind: {cause(error)}"
        ) from error


def _read(folder: Path, name: str, commit: str, *, trust_pickle: bool) -> Checkpoint:
    refuse_adapter(folder)
    modules = find_modules(folder, trust_pickle=trust_pickle)
    body, static = (modules.body, modules.static) if modules else (folder, None)
    weights = list_weights(body, trust_pickle=trust_pickle)
    check_tokenizer(body)
    config = {} if static else read_json(body / "config.json", needed=True)
    architecture = "StaticEmbedding" if static else (config.get("architectures") or ["unknown"])[0]
    task = modules.task if modules else _task(architecture, weights, folder)
    chain = modules.chain if modules else default_chain(task, body)
    check_widths(chain, _width(config))
    card = read_json(folder / "config_sentence_transformers.json")
    query_prompt, document_prompt = _prompts(card, is_plain_colbert=task == "late-interaction" and not modules)
    query_weights = modules.query_weights if modules else None
    return Checkpoint(
        folder=folder,
        body=body,
        name=name,
        revision=commit or f"sha256:{hash_of(_hashed(weights, chain, query_weights))}",
        licence=_licence(folder),
        task=task,
        architecture=architecture,
        model_type="static" if static else str(config.get("model_type", "unknown")),
        chain=chain,
        similarity=_similarity(card, normalize=is_normalized(chain)) if task == "bi-encoder" else "cosine",
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_token_count=_static_token_count(body) if static else _max_token_count(body, config),
        position_count=position_count(config),
        labels=_labels(config) if task == "cross-encoder" else (),
        has_modules=modules is not None,
        trust_pickle=trust_pickle,
        static=static,
        query_weights=query_weights,
    )


def _hashed(weights: list[Path], chain: Chain, query_weights: Path | None) -> list[Path]:
    """Return every file of weights once."""
    others = [module.weights for module in chain if isinstance(module, Dense)]
    return list(dict.fromkeys([*weights, *others, *([query_weights] if query_weights else [])]))


def _task(architecture: str, weights: list[Path], folder: Path) -> Task:
    """Return the task that the architecture, the model card and the names of the weights imply."""
    if architecture.endswith("ForCausalLM") and _card(folder).get("pipeline_tag") == "text-ranking":
        return "yes-no-reranker"  # Qwen3-Reranker and models of its kind
    if architecture.endswith("ForSequenceClassification"):
        return "cross-encoder"
    if any(path.suffix == ".safetensors" and LINEAR in shapes_of(path) for path in weights):
        return "late-interaction"
    return "sparse" if architecture.endswith("ForMaskedLM") else "bi-encoder"


def _width(config: dict[str, Any]) -> int | None:
    """Return the length of token states; None if the configuration has another name for it."""
    width = next((config[name] for name in _WIDTHS if name in config), None)
    return width if isinstance(width, int) else None


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


def _static_token_count(folder: Path) -> int:
    """Return the longest input of a static embedding: what its tokenizer truncates to, else a limit of ours."""
    truncation = read_json(folder / "tokenizer.json", needed=True).get("truncation") or {}
    return int(truncation.get("max_length", _STATIC_LENGTH))


def _max_token_count(folder: Path, config: dict[str, Any]) -> int:
    """Return the longest input: the minimum of the limits of sentence-transformers, the tokenizer and the positions."""
    limits = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        position_count(config),
    ]
    # Tokenizers without a limit state one of 1e30.
    return min((int(limit) for limit in limits if limit and limit < 2**20), default=_FALLBACK_LENGTH)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label") or {}
    count = len(names) or int(config.get("num_labels", 2))
    return tuple(str(names.get(str(index), f"LABEL_{index}")) for index in range(count))


def _licence(folder: Path) -> str:
    stated = _card(folder).get("license")
    return stated if isinstance(stated, str) and stated else "unknown"


def _card(folder: Path) -> dict[str, Any]:
    """Return the metadata of the model card; empty without one."""
    path = folder / "README.md"
    return (metadata_load(path) or {}) if path.exists() else {}
