"""The interface of a reference model."""

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from export.calibration_texts import Item
from export.graph.head import Head
from export.graph.logit_head import LogitHead
from services.core.arrays import F32

Outputs = dict[str, list[F32]]
"""One array per item for each output: `dense` [D], `sparse` [V], `multi_vector` [T, D], `logits` [L]."""


class ReferenceModel(Protocol):
    """A model in its own framework."""

    body: PreTrainedModel | F32
    """The part that is exported: a transformer, or the table [V, D] of a static embedding."""
    task: str
    """Optimum's name of the body's task."""
    tokenizer: PreTrainedTokenizerFast

    @property
    def head(self) -> Head | LogitHead | None:
        """Computes the outputs from those of the body; None if the body's outputs are final."""

    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the framework's outputs for the items, without prompts."""
        ...
