"""The reference model: a checkpoint run by its own framework. Every exported graph is compared with it.

Rule: weights are read from safetensors. Pickles are read only if the caller trusts the checkpoint, and then with
`weights_only`. Code in a checkpoint is never run.
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

from export.calibration_texts import Item
from export.checkpoint import Checkpoint, ExportError
from export.graph import Head
from export.projection import read_projection

F32 = NDArray[np.float32]
Outputs = dict[str, list[F32]]
"""One array per item for each output: `dense` [D], `sparse` [V], `multi_vector` [T, D], `logits` [L]."""

_BATCH: Final = 16


class ReferenceModel(Protocol):
    """A model in its own framework."""

    body: PreTrainedModel
    """The part that is exported."""
    task: str
    """Optimum's name of the body's task."""
    tokenizer: PreTrainedTokenizerFast
    head: Head | None
    """Computes the outputs from those of the body; None if the body's outputs are final."""

    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the framework's outputs for the items, without prompts."""
        ...


def load_reference(checkpoint: Checkpoint, *, multi_vector: bool) -> ReferenceModel:
    """Load the checkpoint in its framework, float32 on the CPU. Raises ExportError if loading fails."""
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
    """A sentence-transformers model: as the checkpoint describes it, or built from parts."""

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
        """Return sentence embeddings and, if requested, unit-length vectors of all tokens, special tokens included."""
        outputs: Outputs = {"dense": list(self._encode(items, "sentence_embedding"))}
        if self._multi_vector:
            states = self._encode(items, "token_embeddings")
            outputs["multi_vector"] = [torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in states]
        return outputs

    def _encode(self, items: Sequence[Item], value: str) -> Any:
        arguments: dict[str, Any] = {"output_value": value, "convert_to_numpy": value == "sentence_embedding"}
        return self._model.encode(list(items), prompt="", batch_size=_BATCH, show_progress_bar=False, **arguments)


class CrossEncoder:
    """A transformers sequence classifier for pairs. Its outputs are logits, before any activation."""

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


class SparseEncoder:
    """SPLADE on a transformers masked language model: the weight of a term is its maximum over the tokens."""

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
        """Return the weights of all terms, max over tokens of log(1 + relu(logits)). Runs one item at a time."""
        rows = []
        for item in items:
            logits = self.body(**_inputs(self.tokenizer, item, self._max_token_count)).logits[0]
            rows.append(torch.log1p(torch.relu(logits)).amax(dim=0).numpy())
        return {"sparse": rows}


class LateInteraction:
    """ColBERT on transformers: projected unit vectors of all tokens, special ones included; no query expansion."""

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
        """Return the unit vectors of every token."""
        rows = []
        for item in items:
            states = self.body(**_inputs(self.tokenizer, item, self._max_token_count)).last_hidden_state[0]
            projected = states @ torch.from_numpy(self._projection)
            rows.append(torch.nn.functional.normalize(projected, dim=-1).numpy())
        return {"multi_vector": rows}


def _keep_whole(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> None:
    """Make the tokenizer read markers such as [unused0] as one token, because training passed them as ids."""
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
    tokenizer.padding_side = "right"  # like the servers; a single text is the same either way
    return tokenizer
