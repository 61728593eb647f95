"""Inverse document frequencies of query terms: a bundle with them encodes sparse queries without running a model.

Source: Geng et al., Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers, 2024.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from export.errors import ExportError

STATED: Final = "idf.json"
_FORMULA: Final = "ln((N + 1) / (df + 1))"
_BATCH: Final = 1000


def read_idf(
    folder: Path, tokenizer: Tokenizer, *, corpus: Path | None = None, query_weights: Path | None = None
) -> tuple[NDArray[np.float32], str] | None:
    """Return the weights, float32 [V], and their source: the corpus if given, else the checkpoint; None without either.

    Special tokens weigh 0. Raises ExportError.
    """
    if corpus is not None:
        table, source = _counted(tokenizer, corpus)
    elif query_weights is not None:
        table, source = _routed(tokenizer, query_weights), "the checkpoint's route of queries"
    elif (folder / STATED).exists():
        table, source = _stated(tokenizer, folder / STATED), f"the checkpoint's {STATED}"
    else:
        return None
    for index, token in tokenizer.get_added_tokens_decoder().items():
        if token.special:
            table[index] = 0
    return table, source


def _stated(tokenizer: Tokenizer, path: Path) -> NDArray[np.float32]:
    """Read weights by token from a JSON object."""
    try:
        weights = {str(token): float(weight) for token, weight in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: expected an object of weights by token, found {error}") from error
    table = np.zeros(tokenizer.get_vocab_size(), dtype=np.float32)
    for token, weight in weights.items():
        index = tokenizer.token_to_id(token)
        if index is None or not (math.isfinite(weight) and weight >= 0):
            raise ExportError(f"{path}: expected a weight >= 0 of a token of the vocabulary, found {token!r}: {weight}")
        table[index] = weight
    return table


def _routed(tokenizer: Tokenizer, path: Path) -> NDArray[np.float32]:
    """Read weights by token id, as SparseStaticEmbedding of sentence-transformers stores them."""
    try:
        table: NDArray[np.float32] = load_file(path)["weight"].astype(np.float32)
    except (OSError, SafetensorError, KeyError) as error:
        raise ExportError(f"{path}: expected an array named weight, found {error}") from error
    expected = (tokenizer.get_vocab_size(),)
    if table.shape != expected or not (np.isfinite(table) & (table >= 0)).all():
        raise ExportError(f"{path}: expected weights >= 0 of shape {list(expected)}, found {list(table.shape)}")
    return table


def _counted(tokenizer: Tokenizer, path: Path) -> tuple[NDArray[np.float32], str]:
    """Count in how many documents each token occurs, and return the weights. Each line is a JSON object with `text`."""
    documents = _documents(path)
    found: Counter[int] = Counter()
    for start in range(0, len(documents), _BATCH):
        for encoding in tokenizer.encode_batch_fast(documents[start : start + _BATCH], add_special_tokens=False):
            found.update(set(encoding.ids))
    frequencies = np.array([found[index] for index in range(tokenizer.get_vocab_size())])
    table = np.log((len(documents) + 1) / (frequencies + 1)).astype(np.float32)
    return table, f"{_FORMULA} over {len(documents)} documents of {path.name}"


def _documents(path: Path) -> list[str]:
    """Return the title and text of each line."""
    documents = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                document = json.loads(line)
                if not isinstance(document, dict) or not isinstance(document.get("text"), str):
                    raise ExportError(f"{path}, line {number}: expected an object with `text`, found {line[:60]!r}")
                documents.append(f"{document.get('title') or ''} {document['text']}".strip())
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: expected lines of JSON, found {error}") from error
    if not documents:
        raise ExportError(f"{path}: expected documents, found none")
    return documents
