"""Cross-encoders as transformers runs them."""

from collections.abc import Sequence
from typing import Final

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.graph.head import Head
from export.reference.model import Outputs
from export.reference.pretrained import load_arguments, load_tokenizer
from services.core.arrays import F32

_BATCH: Final = 16


class CrossEncoder:
    """A transformers sequence classifier for pairs. Its outputs are logits, before any activation."""

    task = "text-classification"
    head: Head | None = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.body, **load_arguments(checkpoint)
        ).eval()
        self.tokenizer = load_tokenizer(checkpoint)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the logits of each pair."""
        rows: list[F32] = []
        for start in range(0, len(items), _BATCH):
            inputs = self.tokenizer(
                list(items[start : start + _BATCH]),
                padding=True,
                truncation="longest_first",
                max_length=self._max_token_count,
                return_tensors="pt",
            )
            rows.extend(self.body(**inputs).logits.numpy())
        return {"logits": rows}
