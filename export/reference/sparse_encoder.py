"""Sparse encoders as transformers runs them."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.graph.head import Head
from export.reference.model import Outputs
from export.reference.pretrained import load_arguments, load_tokenizer, tokenize


class SparseEncoder:
    """SPLADE on a transformers masked language model: the weight of a term is its maximum over the tokens."""

    task = "fill-mask"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
            checkpoint.folder, **load_arguments(checkpoint)
        ).eval()
        self.tokenizer = load_tokenizer(checkpoint)
        self.head: Head | None = Head(sparse=True)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the weights of all terms, max over tokens of log(1 + relu(logits)). Runs one item at a time."""
        rows = []
        for item in items:
            logits = self.body(**tokenize(self.tokenizer, item, self._max_token_count)).logits[0]
            rows.append(torch.log1p(torch.relu(logits)).amax(dim=0).numpy())
        return {"sparse": rows}
