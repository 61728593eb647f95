"""Options of an export, and how they override what the checkpoint states."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final

from export.checkpoint.adapter import Adapter, read_adapter
from export.checkpoint.description import Checkpoint, Pooling, Similarity, Task
from export.errors import ExportError
from services.inference.bundle import VariantName

# Computed inside the graph.
_IN_GRAPH: Final = ("task", "pooling", "normalize")
# Increase when the same options give another bundle; existing bundles are then exported again.
_RECIPE: Final = "2"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STATED: Final = (*_IN_GRAPH, "similarity", "query_prompt", "document_prompt", "max_token_count")


@dataclass(frozen=True)
class Options:
    """Options of an export. None means the checkpoint's own value."""

    name: str | None = None
    version: str = "1"
    revision: str | None = None
    task: Task | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    similarity: Similarity | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_token_count: int | None = None
    matryoshka_dimensions: tuple[int, ...] = ()
    relevant_label: str | None = None
    multi_vector: bool = False
    query_idf: Path | None = None
    adapters: tuple[str, ...] = ()
    """LoRA adapters to merge, each FOLDER or FOLDER:WEIGHT."""
    int8: bool = True
    fp16: bool = False
    default_variant: VariantName | None = None
    trust_pickle: bool = False

    def recorded(self, adapters: Sequence[Adapter] = ()) -> dict[str, str]:
        """Return the given options as the manifest records them, with the contents of adapters instead of paths."""
        given = {**vars(self), "adapters": ", ".join(map(str, adapters)) or None}
        del given["revision"]
        return {"recipe": _RECIPE, **{key: str(value) for key, value in given.items() if value not in (None, ())}}


def bundle_path(checkpoint: Checkpoint, options: Options) -> PurePath:
    """Return NAME/VERSION of the bundle. Raises ExportError if either is not a valid folder name."""
    name = options.name or checkpoint.name.rpartition("/")[2]
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
    is_same = all(given.get(name, getattr(checkpoint, name)) == getattr(checkpoint, name) for name in _IN_GRAPH)
    longest = given.get("max_token_count", 0)
    if checkpoint.position_count is not None and longest > checkpoint.position_count:
        raise ExportError(f"--max-token-count: expected at most {checkpoint.position_count} positions, found {longest}")
    adapters = tuple(read_adapter(adapter) for adapter in options.adapters)
    return replace(checkpoint, has_modules=checkpoint.has_modules and is_same, adapters=adapters, **given)
