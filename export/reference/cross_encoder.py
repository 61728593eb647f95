"""Cross-encoders as transformers runs them.

Facts: a decoder classifies by the state of the last token, which transformers finds by `pad_token_id`. Only its body is
exported; the graph's head has the rest.
"""

from collections.abc import Sequence
from typing import Final

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.graph.logit_head import LogitHead
from export.reference.model import Outputs
from export.reference.pretrained import load_arguments, load_tokenizer
from services.core.arrays import F32

_BATCH: Final = 16


class CrossEncoder:
    """A transformers sequence classifier for pairs. Its outputs are logits, before any activation."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.whole: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.body, **load_arguments(checkpoint)
        ).eval()
        self.task = "feature-extraction" if self.head else "text-classification"
        self.body: PreTrainedModel = self.whole.base_model if self.head else self.whole
        self.tokenizer = load_tokenizer(checkpoint)
        self._max_token_count = checkpoint.max_token_count

    @property
    def head(self) -> LogitHead | None:
        """The classification head of a decoder; None for an encoder, which has it in its body."""
        score = getattr(self.whole, "score", None)
        if not isinstance(score, torch.nn.Linear):
            return None
        bias = None if score.bias is None else score.bias.detach().numpy()
        return LogitHead(score.weight.detach().numpy().T, bias, pad_token_id=self.whole.config.pad_token_id)

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the logits of each pair."""
        rows: list[F32] = []
        batch = 1 if self.head else _BATCH  # without a padding token, transformers runs decoders one by one
        for start in range(0, len(items), batch):
            inputs = self.tokenizer(
                list(items[start : start + batch]),
                padding=True,
                truncation="longest_first",
                max_length=self._max_token_count,
                return_tensors="pt",
            )
            rows.extend(self.whole(**inputs).logits.numpy())
        return {"logits": rows}
