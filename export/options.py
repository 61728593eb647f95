"""Options of an export, and how they override what the checkpoint states."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final

from export.checkpoint.adapter import Adapter, read_adapter
from export.checkpoint.chain import Chain, Pooling, PoolingMode, Task, with_normalization, with_pooling
from export.checkpoint.description import Checkpoint, Similarity
from export.checkpoint.modules import default_chain
from export.errors import ExportError
from export.prompt.options import PromptOptions
from services.inference.bundle import VariantName

# Increase when the same options give another bundle; existing bundles are then exported again.
_RECIPE: Final = "2"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STATED: Final = ("similarity", "query_prompt", "document_prompt", "max_token_count")


@dataclass(frozen=True)
class Options:
    """Options of an export. None means the checkpoint's own value."""

    name: str | None = None
    version: str = "1"
    revision: str | None = None
    task: Task | None = None
    pooling: tuple[PoolingMode, ...] = ()
    normalize: bool | None = None
    similarity: Similarity | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_token_count: int | None = None
    matryoshka_dimensions: tuple[int, ...] = ()
    relevant_label: str | None = None
    multi_vector: bool = False
    query_idf: Path | None = None
    yes_token: str | None = None
    no_token: str | None = None
    instruction: str | None = None
    template: str | None = None
    """Text of the prompt of a reranker that is a language model."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters to merge, each FOLDER or FOLDER:WEIGHT."""
    int8: bool = True
    fp16: bool = False
    default_variant: VariantName | None = None
    trust_pickle: bool = False

    def recorded(self, adapters: Sequence[Adapter] = ()) -> dict[str, str]:
        """Return the given options as the manifest records them, with the contents of adapters instead of paths."""
        given = {**vars(self), "adapters": ", ".join(map(str, adapters)), "pooling": "+".join(self.pooling)}
        del given["revision"]
        return {"recipe": _RECIPE, **{key: str(value) for key, value in given.items() if value not in (None, (), "")}}


def bundle_path(checkpoint: Checkpoint, options: Options) -> PurePath:
    """Return NAME/VERSION of the bundle. Raises ExportError if either is not a valid folder name."""
    name = checkpoint.name.rpartition("/")[2] if options.name is None else options.name
    for flag, value in (("--name", name), ("--version", options.version)):
        if not _NAME.fullmatch(value):
            raise ExportError(f"{flag}: expected letters, digits and . _ - (64 at most), found {value!r}")
    return PurePath(name, options.version)


def overridden(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """Return the checkpoint with the options applied and the adapters read.

    If they change what the model computes, the reference model is built from parts instead of the checkpoint's
    modules. Raises ExportError.
    """
    given: dict[str, Any] = {name: value for name in _STATED if (value := getattr(options, name)) is not None}
    longest = given.get("max_token_count", 0)
    if checkpoint.position_count is not None and longest > checkpoint.position_count:
        raise ExportError(f"--max-token-count: expected at most {checkpoint.position_count} positions, found {longest}")
    task, chain = options.task or checkpoint.task, _chain(checkpoint, options)
    is_same = (task, chain) == (checkpoint.task, checkpoint.chain)
    given |= {"adapters": tuple(read_adapter(adapter) for adapter in options.adapters)}
    given |= {"prompt": PromptOptions(options.yes_token, options.no_token, options.instruction, options.template)}
    changed = replace(checkpoint, task=task, chain=chain, has_modules=checkpoint.has_modules and is_same, **given)
    _check_prompts(changed)
    return changed


def _chain(checkpoint: Checkpoint, options: Options) -> Chain:
    """Return the checkpoint's modules with the options applied. Raises ExportError."""
    chain, task = checkpoint.chain, options.task or checkpoint.task
    if checkpoint.static and (options.pooling or task != checkpoint.task or options.multi_vector):
        raise ExportError("--task, --pooling, --multi-vector: expected a transformer, found a static embedding")
    if task != checkpoint.task:
        chain = default_chain(task, checkpoint.body)
    if options.pooling:
        chain = with_pooling(chain, options.pooling)
    return chain if options.normalize is None else with_normalization(chain, normalize=options.normalize)


def _check_prompts(checkpoint: Checkpoint) -> None:
    """Raise ExportError if tokens of a prompt would be pooled that the checkpoint excludes."""
    excludes = any(isinstance(module, Pooling) and not module.includes_prompt for module in checkpoint.chain)
    if excludes and (checkpoint.query_prompt or checkpoint.document_prompt):
        raise ExportError(
            f"{checkpoint.name}: its pooling excludes the tokens of the prompt (include_prompt: false), which bundles "
            "cannot express; export without prompts (--query-prompt '' --document-prompt '') or take another model"
        )
