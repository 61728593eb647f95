"""What a checkpoint states about itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.checkpoint.adapter import Adapter
from export.checkpoint.chain import Chain, StaticLayout, Task
from export.prompt.options import PromptOptions

Similarity = Literal["cosine", "dot", "l2"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk and what it states about itself."""

    folder: Path
    body: Path
    """Folder of the transformer, or of a static embedding's table; often the same."""
    name: str
    """Hub id, or name of the folder."""
    revision: str
    """Commit, or `sha256:` and the hash of the weights."""
    licence: str
    task: Task
    architecture: str
    model_type: str
    """Name of the architecture in transformers."""
    chain: Chain
    """What follows the body; empty for a cross-encoder."""
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
    static: StaticLayout | None = None
    """Layout of the table of a static embedding, whose body is no transformer; None for a transformer."""
    query_weights: Path | None = None
    """Safetensors with `weight` [V], the weights of query terms; None if the model computes them."""
    prompt: PromptOptions = field(default_factory=PromptOptions)
    """For rerankers that are language models."""
    adapters: tuple[Adapter, ...] = ()
    """LoRA adapters that are merged into the model."""
