"""Loading of models and tokenizers of transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from export.calibration_texts import Item
from export.checkpoint.description import Checkpoint
from export.errors import ExportError
from export.reference.byte_tokenizer import to_fast


def load_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`: float32, no remote code, no pickles unless they are trusted."""
    # None: safetensors if there are any.
    safe = None if checkpoint.trust_pickle else True
    return {"dtype": torch.float32, "use_safetensors": safe, "trust_remote_code": False}


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """Load the tokenizer. Raises ExportError if it is not one of the tokenizers library."""
    return require_fast(AutoTokenizer.from_pretrained(checkpoint.body, trust_remote_code=False), checkpoint)


def require_fast(tokenizer: object, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which must be one of the tokenizers library, padding on the right. Raises ExportError."""
    if isinstance(tokenizer, ByT5Tokenizer):
        tokenizer = to_fast(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ExportError(
            f"{checkpoint.folder}: expected a tokenizer that the tokenizers library runs (tokenizer.json), found one "
            "that exists only in Python. Servers have no Python tokenizers; choose a model that has a fast tokenizer"
        )
    tokenizer.padding_side = "right"  # like the servers; a single text is the same either way
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _any_special_token(tokenizer, checkpoint)
    return tokenizer


def _any_special_token(tokenizer: PreTrainedTokenizerFast, checkpoint: Checkpoint) -> str:
    """Return a token that pads without a change of results, because padding is masked. Raises ExportError."""
    found = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
    if not any(found):
        raise ExportError(
            f"{checkpoint.folder}: expected a tokenizer with a token for padding or for the end, found none"
        )
    return next(str(token) for token in found if token)


def keep_whole(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> None:
    """Make the tokenizer read markers such as [unused0] as one token, because training passed them as ids."""
    vocabulary = tokenizer.get_vocab()
    markers = {prompt.strip() for prompt in prompts if prompt.strip() in vocabulary}
    tokenizer.add_tokens(sorted(markers), special_tokens=True)


def tokenize(tokenizer: PreTrainedTokenizerFast, item: Item, max_token_count: int) -> Any:
    """Return the inputs of a model for one item: tensors [1, T]."""
    return tokenizer(item, truncation=True, max_length=max_token_count, return_tensors="pt")
