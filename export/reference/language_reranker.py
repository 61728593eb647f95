"""Rerankers that are language models, as transformers runs them: the logits of an answer's first token."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.checkpoint.modules import read_answers
from export.errors import ExportError
from export.graph.logit_head import LogitHead
from export.prompt.cuts import cut
from export.prompt.template import IDENTIFIERS, list_template, pair_template
from export.reference.model import Outputs
from export.reference.pretrained import load_arguments, load_tokenizer
from services.core.arrays import F32
from services.inference.prompt import PromptRows
from services.inference.tokenizer import Tokenizer

_YES: Final = "yes"
_NO: Final = "no"
# log P(yes) - log P(no), which is the difference of their logits.
_YES_OR_NO: Final = np.array([[1], [-1]], np.float32)


@dataclass(frozen=True)
class PaddedRow:
    """A row of the graph."""

    ids: list[int]
    attention_mask: list[int]
    type_ids: list[int]


class LanguageReranker:
    """A causal language model that reads a prompt.

    A yes/no reranker has one logit: that of the yes token, less that of the no token if there is one. A listwise
    reranker has the logit of each document's identifier.
    """

    task = "feature-extraction"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.whole: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            checkpoint.body, **load_arguments(checkpoint)
        ).eval()
        self.body: PreTrainedModel = self.whole.base_model
        self.tokenizer = load_tokenizer(checkpoint)
        self._max_token_count = checkpoint.max_token_count
        is_list = checkpoint.task == "listwise-reranker"
        self._template = (list_template if is_list else pair_template)(self.tokenizer, checkpoint.prompt)
        own = _served(self.tokenizer)
        self.prompt = cut(self._template, own, IDENTIFIERS if is_list else ())
        try:
            self._rows = PromptRows(self.prompt, own, max_token_count=checkpoint.max_token_count)
        except ValueError as error:
            raise ExportError(f"--max-token-count: {error}, found {checkpoint.max_token_count}") from error
        self._own = own
        self._tokens = _identifiers(self.tokenizer) if is_list else _answers(self.tokenizer, checkpoint)
        self._mix = None if is_list else _YES_OR_NO[: len(self._tokens)]
        self.labels = () if is_list else (checkpoint.prompt.yes_token or _YES,)

    @property
    def head(self) -> LogitHead:
        """The rows of the language model's head for the answers."""
        return _head(self.whole, self._tokens, self._mix)

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> Outputs:
        """Return the logits of each pair or list, from the whole prompt as one text. Runs one item at a time."""
        rows: list[F32] = []
        for query, documents in map(_texts, items):
            text = self._template.fill(query, documents)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) > self._max_token_count:  # truncated as servers do
                ids = self._row(query, documents)
            found = self.whole(input_ids=torch.tensor([ids])).logits[0, -1, self._tokens].numpy()
            rows.append((found if self._mix is None else found @ self._mix)[: max(len(documents), 1)])
        return {"logits": rows}

    def encode_batch(self, items: Sequence[Item]) -> list[PaddedRow]:
        """Return the rows of pairs or lists as servers make them, padded to the longest."""
        rows = [self._row(*_texts(item)) for item in items]
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id or 0
        return [
            PaddedRow([*ids, *[pad] * (longest - len(ids))], [1] * len(ids) + [0] * (longest - len(ids)), [0] * longest)
            for ids in rows
        ]

    def _row(self, query: str, documents: tuple[str, ...]) -> list[int]:
        ids = self._own.tokenize(self._rows.texts(query, documents))
        return list(self._rows.row(*self._rows.split(ids), "end").row.ids)


def _texts(item: Item) -> tuple[str, tuple[str, ...]]:
    if isinstance(item, str):
        return item, (item,)
    query, documents = item
    return query, (documents,) if isinstance(documents, str) else documents


def _served(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """Return the tokenizer as servers load it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.backend_tokenizer.save(str(path))
        return Tokenizer(path, max_token_count=2**20)


def _identifiers(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return [_token(tokenizer, identifier, "the identifiers A to T") for identifier in IDENTIFIERS]


def _answers(tokenizer: PreTrainedTokenizerFast, checkpoint: Checkpoint) -> list[int]:
    """Return the ids of the answers yes and no; only the former if the checkpoint's LogitScore has no other."""
    options = checkpoint.prompt
    stated = read_answers(checkpoint.folder)
    if stated and not options.yes_token and not options.no_token:
        found = [number for number in stated if number is not None]
        if not all(0 <= number < len(tokenizer) for number in found):
            raise ExportError(f"LogitScore: expected tokens of the vocabulary of {len(tokenizer)}, found {found}")
        return found
    return [
        _token(tokenizer, options.yes_token or _YES, "--yes-token"),
        _token(tokenizer, options.no_token or _NO, "--no-token"),
    ]


def _token(tokenizer: PreTrainedTokenizerFast, text: str, name: str) -> int:
    """Return the id of a token. Raises ExportError if the text is not one token."""
    vocabulary = tokenizer.get_vocab()
    if text in vocabulary:
        return int(vocabulary[text])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ExportError(f"{name}: expected one token of the vocabulary, found {text!r}, which is {len(ids)} tokens")
    return int(ids[0])


def _head(model: PreTrainedModel, tokens: list[int], mix: F32 | None) -> LogitHead:
    """Return the rows of the language model's head for these tokens."""
    output: Any = model.get_output_embeddings()
    config = model.config
    scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    weight: F32 = output.weight.detach()[tokens].numpy().T * np.float32(scale)
    bias: F32 | None = None if getattr(output, "bias", None) is None else output.bias.detach()[tokens].numpy()
    return LogitHead(weight, bias, getattr(config, "final_logit_softcapping", None), mix)
