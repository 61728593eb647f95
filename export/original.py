"""A checkpoint run by the framework it was made with: what every graph is measured against.

Rule: safetensors unless the checkpoint is named as trusted (and then torch reads tensors only, `weights_only`);
never code that a checkpoint carries.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from export.checkpoint import Checkpoint, ExportError
from export.graph import Head
from export.projection import read_projection
from export.sample import Item

F32 = NDArray[np.float32]
Outputs = dict[str, list[F32]]
"""For each output one array an item: `dense` [D], `sparse` [V], `multi_vector` [T, D], `logits` [L]."""

_BATCH: Final = 16


class Original(Protocol):
    """A model in its own framework."""

    body: PreTrainedModel
    """What is exported."""
    task: str
    """Optimum's name for what the body does."""
    tokenizer: PreTrainedTokenizerFast
    head: Head | None
    """What makes the outputs of what the body gives; None when these are the outputs."""

    def run(self, items: Sequence[Item]) -> Outputs:
        """What the framework makes of the items, without prompts."""
        ...


def load_original(checkpoint: Checkpoint, *, multi_vector: bool) -> Original:
    """The checkpoint in its framework, in float32 on the CPU. Raises ExportError when it does not load."""
    try:
        if checkpoint.task == "cross-encoder":
            return CrossEncoder(checkpoint)
        if checkpoint.task == "sparse":
            return SparseEncoder(checkpoint)
        if checkpoint.task == "late-interaction":
            return LateInteraction(checkpoint)
        return BiEncoder(checkpoint, multi_vector=multi_vector)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(f"{checkpoint.folder}: expected a checkpoint that transformers loads: {error}") from error


class BiEncoder:
    """sentence-transformers, as the checkpoint describes itself; from its parts when it does not, or was overridden."""

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint, *, multi_vector: bool) -> None:
        self._multi_vector = multi_vector
        folder, arguments = str(checkpoint.folder), _arguments(checkpoint)
        if checkpoint.has_modules:
            self._model = SentenceTransformer(folder, device="cpu", trust_remote_code=False, model_kwargs=arguments)
        else:
            transformer = Transformer(folder, model_kwargs=arguments)
            pooling = Pooling(
                transformer.get_embedding_dimension(), checkpoint.pooling.replace("last-token", "lasttoken")
            )
            last = [Normalize()] if checkpoint.normalize else []
            self._model = SentenceTransformer(modules=[transformer, pooling, *last], device="cpu")
        self._model.max_seq_length = checkpoint.max_token_count
        self.body: PreTrainedModel = self._model[0].auto_model.eval()
        self.tokenizer = _fast(self._model.tokenizer, checkpoint)
        self.head: Head | None = Head(checkpoint.pooling, checkpoint.normalize, multi_vector=multi_vector)

    def run(self, items: Sequence[Item]) -> Outputs:
        """Sentence embeddings and, when asked for, unit-length states of every token, special ones included."""
        outputs: Outputs = {"dense": list(self._encode(items, "sentence_embedding"))}
        if self._multi_vector:
            states = self._encode(items, "token_embeddings")
            outputs["multi_vector"] = [torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in states]
        return outputs

    def _encode(self, items: Sequence[Item], value: str) -> Any:
        arguments: dict[str, Any] = {"output_value": value, "convert_to_numpy": value == "sentence_embedding"}
        return self._model.encode(list(items), prompt="", batch_size=_BATCH, show_progress_bar=False, **arguments)


class CrossEncoder:
    """transformers' sequence classification on pairs; what it gives are logits, before any activation."""

    task = "text-classification"
    head: Head | None = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.folder, **_arguments(checkpoint)
        ).eval()
        self.tokenizer = _loaded_tokenizer(checkpoint)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Logits of each pair."""
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


class SparseEncoder:
    """SPLADE: transformers' masked language model; a term weighs as much as at the token that wants it most."""

    task = "fill-mask"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
            checkpoint.folder, **_arguments(checkpoint)
        ).eval()
        self.tokenizer = _loaded_tokenizer(checkpoint)
        self.head: Head | None = Head(sparse=True)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Weights of all terms, max over tokens of log(1 + relu(logits)); alone, because logits are large."""
        rows = []
        for item in items:
            logits = self.body(**_inputs(self.tokenizer, item, self._max_token_count)).logits[0]
            rows.append(torch.log1p(torch.relu(logits)).amax(dim=0).numpy())
        return {"sparse": rows}


class LateInteraction:
    """ColBERT: transformers' token states, projected and of unit length; special tokens included, no expansion."""

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.body: PreTrainedModel = AutoModel.from_pretrained(checkpoint.folder, **_arguments(checkpoint)).eval()
        self.tokenizer = _loaded_tokenizer(checkpoint)
        _keep_whole(self.tokenizer, (checkpoint.query_prompt, checkpoint.document_prompt))
        self._projection = read_projection(checkpoint.folder, width=self.body.config.hidden_size)
        self.head: Head | None = Head(multi_vector=True, projection=self._projection)
        self._max_token_count = checkpoint.max_token_count

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Unit vectors of every token."""
        rows = []
        for item in items:
            states = self.body(**_inputs(self.tokenizer, item, self._max_token_count)).last_hidden_state[0]
            projected = states @ torch.from_numpy(self._projection)
            rows.append(torch.nn.functional.normalize(projected, dim=-1).numpy())
        return {"multi_vector": rows}


def _keep_whole(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> None:
    """Let markers that the vocabulary has, as [unused0], be read as one token, which training gave as an id."""
    vocabulary = tokenizer.get_vocab()
    markers = {prompt.strip() for prompt in prompts if prompt.strip() in vocabulary}
    tokenizer.add_tokens(sorted(markers), special_tokens=True)


def _inputs(tokenizer: PreTrainedTokenizerFast, item: Item, max_token_count: int) -> Any:
    return tokenizer(item, truncation=True, max_length=max_token_count, return_tensors="pt")


def _loaded_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    return _fast(AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False), checkpoint)


def _arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"dtype": torch.float32, "use_safetensors": not checkpoint.trust_pickle, "trust_remote_code": False}


def _fast(tokenizer: object, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ExportError(
            f"{checkpoint.folder}: expected a tokenizer of the tokenizers library, found {type(tokenizer)}"
        )
    tokenizer.padding_side = "right"  # as servers pad; a text alone is the same either way
    return tokenizer
