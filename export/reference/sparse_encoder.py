"""Sparse encoders as transformers runs them."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.chain import SpladePooling
from export.checkpoint.description import Checkpoint
from export.graph.head import Head
from export.reference.model import Outputs
from export.reference.pretrained import load_arguments, load_tokenizer, tokenize


class SparseEncoder:
    """SPLADE on a transformers masked language model: the weight of a term is pooled over the tokens."""

    task = "fill-mask"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
            checkpoint.body, **load_arguments(checkpoint)
        ).eval()
        self.tokenizer = load_tokenizer(checkpoint)
        self._pooling = next(module for module in checkpoint.chain if isinstance(module, SpladePooling))
        self.head: Head | None = Head((self._pooling,))
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the weights of all terms. Runs one item at a time."""
        rows = []
        for item in items:
            logits = self.body(**tokenize(self.tokenizer, item, self._max_token_count)).logits[0]
            weights = torch.relu(logits)
            for _ in range(self._pooling.logarithms):
                weights = torch.log1p(weights)
            rows.append((weights.sum(dim=0) if self._pooling.strategy == "sum" else weights.amax(dim=0)).numpy())
        return {"sparse": rows}
