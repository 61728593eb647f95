"""Bi-encoders as sentence-transformers runs them."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import PreTrainedModel

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.errors import ExportError
from export.graph.head import Head
from export.reference.layers import as_module, read_layers
from export.reference.model import Outputs
from export.reference.pretrained import load_arguments, require_fast

_BATCH: Final = 16
# By default, a tokenizer with a chat template makes sentence-transformers read each text as a message of a chat.
_TEXTS: Final[Any] = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_STATES: Final = "token_embeddings"


class BiEncoder:
    """A sentence-transformers model: as the checkpoint describes it, or built from parts."""

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint, *, multi_vector: bool) -> None:
        self._multi_vector = multi_vector
        arguments = load_arguments(checkpoint)
        if checkpoint.has_modules:
            folder = str(checkpoint.folder)
            self._model = SentenceTransformer(folder, device="cpu", trust_remote_code=False, model_kwargs=arguments)
        else:
            transformer = Transformer(
                str(checkpoint.body), model_kwargs=arguments, modality_config=_TEXTS, module_output_name=_STATES
            )
            following = [as_module(module, transformer.get_embedding_dimension()) for module in checkpoint.chain]
            self._model = SentenceTransformer(modules=[transformer, *following], device="cpu")
        if "message" in self._model[0].modality_config:
            raise ExportError(
                f"{checkpoint.folder}: expected a model that embeds plain texts, found one that reads each text as a "
                "message of a chat, which is not supported"
            )
        self._model.max_seq_length = checkpoint.max_token_count
        self.body: PreTrainedModel = self._model[0].auto_model.eval()
        self.tokenizer = require_fast(self._model.tokenizer, checkpoint)
        self.head: Head | None = Head(read_layers(checkpoint.chain), multi_vector=multi_vector)

    def run(self, items: Sequence[Item]) -> Outputs:
        """Return sentence embeddings and, if requested, unit-length vectors of all tokens, special tokens included."""
        outputs: Outputs = {"dense": list(self._encode(items, "sentence_embedding"))}
        if self._multi_vector:
            states = self._encode(items, "token_embeddings")
            outputs["multi_vector"] = [torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in states]
        return outputs

    def _encode(self, items: Sequence[Item], value: str) -> Any:
        arguments: dict[str, Any] = {"output_value": value, "convert_to_numpy": value == "sentence_embedding"}
        return self._model.encode(list(items), prompt="", batch_size=_BATCH, show_progress_bar=False, **arguments)
