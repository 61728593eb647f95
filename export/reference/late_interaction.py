"""Late-interaction models as transformers runs them."""

from collections.abc import Sequence

import torch
from transformers import AutoModel, PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.graph.head import Head
from export.reference.model import Outputs
from export.reference.pretrained import keep_whole, load_arguments, load_tokenizer, tokenize
from export.reference.projection import read_projection


class LateInteraction:
    """ColBERT on transformers: projected unit vectors of all tokens, special ones included; no query expansion."""

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModel.from_pretrained(checkpoint.folder, **load_arguments(checkpoint)).eval()
        self.tokenizer = load_tokenizer(checkpoint)
        keep_whole(self.tokenizer, (checkpoint.query_prompt, checkpoint.document_prompt))
        self._projection = read_projection(checkpoint.folder, width=self.body.config.hidden_size)
        self.head: Head | None = Head(multi_vector=True, projection=self._projection)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the unit vectors of every token."""
        rows = []
        for item in items:
            states = self.body(**tokenize(self.tokenizer, item, self._max_token_count)).last_hidden_state[0]
            projected = states @ torch.from_numpy(self._projection)
            rows.append(torch.nn.functional.normalize(projected, dim=-1).numpy())
        return {"multi_vector": rows}
