"""Static embeddings as sentence-transformers and model2vec run them: the mean of the tokens' rows in a table.

Facts: sentence-transformers stores the table as `embedding.weight`, model2vec as `embeddings`. A model2vec table may be
shared by tokens: `mapping` [V] holds the row of each token, and `weights` [V] a factor. model2vec leaves out unknown
tokens; here their row is zero, which gives vectors of the same direction. Neither adds special tokens.
"""

import json
from collections.abc import Sequence
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.checkpoint.files import weights_in
from export.errors import ExportError
from export.graph.head import Head
from export.reference.layers import as_module, read_layers
from export.reference.model import Outputs
from services.core.arrays import F32

_TABLES: Final = ("embedding.weight", "embeddings")


class StaticEncoder:
    """A static embedding, built from its table and the modules after it."""

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint) -> None:
        tokenizer = Tokenizer.from_file(str(checkpoint.body / "tokenizer.json"))
        table = _read_table(checkpoint, tokenizer)
        tokenizer.enable_truncation(checkpoint.max_token_count)
        following = [as_module(module, table.shape[1]) for module in checkpoint.chain[1:]]  # without the mean
        self._model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, table), *following], device="cpu")
        self.body: F32 = table.numpy()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=_without_special_tokens(tokenizer))
        self.head: Head | None = Head(read_layers(checkpoint.chain))

    def run(self, items: Sequence[Item]) -> Outputs:
        """Return sentence embeddings."""
        return {"dense": list(self._model.encode(list(items), prompt="", show_progress_bar=False))}


def _without_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    stated = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**stated, "post_processor": None}))


def _read_table(checkpoint: Checkpoint, tokenizer: Tokenizer) -> torch.Tensor:
    """Return the vector of each token, float32 [V, D]. Raises ExportError."""
    path = weights_in(checkpoint.body, trust_pickle=checkpoint.trust_pickle)
    try:
        is_safe = path.suffix == ".safetensors"
        tensors = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ExportError(f"{path}: expected a table of token vectors, found {error}") from error
    table = next((tensors[name] for name in _TABLES if name in tensors), None)
    if table is None or table.ndim != 2:
        raise ExportError(f"{path}: expected a table of token vectors named {' or '.join(_TABLES)}, found none")
    table = table.float()
    if "mapping" in tensors:
        table = table[tensors["mapping"].long()]
    if "weights" in tensors:
        table = table * tensors["weights"].float()[:, None]
    if len(table) < tokenizer.get_vocab_size():
        expected = f"a vector for each of {tokenizer.get_vocab_size()} tokens of tokenizer.json"
        raise ExportError(f"{path}: expected {expected}, found {len(table)}")
    if not torch.isfinite(table).all():
        raise ExportError(f"{path}: expected finite weights, found NaN or infinity")
    unknown = getattr(tokenizer.model, "unk_token", None)
    if checkpoint.static == "model2vec" and unknown is not None:
        table[tokenizer.token_to_id(unknown)] = 0
    return table.contiguous()
