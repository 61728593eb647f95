"""What an export can be asked for, and what of it overrides the checkpoint."""

from dataclasses import dataclass, replace
from typing import Any, Final

from export.checkpoint import Checkpoint, Pooling, Similarity, Task

# What these say is computed inside the graph.
_IN_GRAPH: Final = ("task", "pooling", "normalize")
_STATED: Final = (*_IN_GRAPH, "similarity", "query_prompt", "document_prompt", "max_token_count")


@dataclass(frozen=True)
class Options:
    """What an export is asked for. None takes what the checkpoint says."""

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
    int8: bool = True
    fp16: bool = False
    trust_pickle: bool = False

    def recorded(self) -> dict[str, str]:
        """What was asked for, as the manifest keeps it."""
        return {key: str(value) for key, value in vars(self).items() if value not in (None, ()) and key != "revision"}


def overridden(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """The checkpoint with what the options say otherwise.

    When that changes what the model computes, the original is put together from parts, not from the checkpoint's files.
    """
    given: dict[str, Any] = {name: value for name in _STATED if (value := getattr(options, name)) is not None}
    is_same = all(given.get(name, getattr(checkpoint, name)) == getattr(checkpoint, name) for name in _IN_GRAPH)
    return replace(checkpoint, has_modules=checkpoint.has_modules and is_same, **given)
