"""Late-interaction models as transformers runs them."""

from collections.abc import Sequence

import torch
from transformers import AutoModel, PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.graph.head import Head, Linear
from export.reference.layers import apply, read_layers
from export.reference.model import Outputs
from export.reference.pretrained import keep_whole, load_arguments, load_tokenizer, tokenize


class LateInteraction:
    """ColBERT on transformers: projected unit vectors of all tokens, special ones included; no query expansion."""

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModel.from_pretrained(checkpoint.body, **load_arguments(checkpoint)).eval()
        self.tokenizer = load_tokenizer(checkpoint)
        keep_whole(self.tokenizer, (checkpoint.query_prompt, checkpoint.document_prompt))
        layers = read_layers(checkpoint.chain)
        self._linears = [layer for layer in layers if isinstance(layer, Linear)]
        self.head: Head | None = Head(layers, multi_vector=True)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the unit vectors of every token."""
        rows = []
        for item in items:
            states = self.body(**tokenize(self.tokenizer, item, self._max_token_count)).last_hidden_state[0]
            for linear in self._linears:
                states = apply(linear, states)
            rows.append(torch.nn.functional.normalize(states, dim=-1).numpy())
        return {"multi_vector": rows}
