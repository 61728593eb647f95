"""Running of a bundle's graph as the servers run it: with the tokenizers library and ONNX Runtime only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from export.calibration_texts import Item
from export.reference.model import Outputs
from services.core.arrays import F32

# Exceptions of ONNX Runtime; they have no common base class.
GRAPH_ERRORS: Final = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.NotImplemented,
    state.RuntimeException,
)

Feed = dict[str, NDArray[np.int64]]


class EncodedRow(Protocol):
    """A row of ids, padded to the longest of its batch."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""

    @property
    def attention_mask(self) -> list[int]:
        """1 for a token, 0 for padding."""

    @property
    def type_ids(self) -> list[int]:
        """Segments."""


class Encoder(Protocol):
    """Makes rows of items, as servers do: a tokenizer, or a reranker's prompt."""

    def encode_batch(self, items: Sequence[Item], /) -> Sequence[EncodedRow]:
        """Return the rows of a batch."""


class Graph:
    """An ONNX graph, from a file or from bytes, with a tokenizer."""

    def __init__(self, model: Path | bytes, tokenizer: Encoder, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # failures are raised, and would otherwise be printed too
        # Spinning while waiting takes processor time from other threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizer
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, items: Sequence[Item], *, batch_size: int) -> Outputs:
        """Return the outputs for the items, in batches of consecutive items. Axes as in `Outputs`."""
        outputs: Outputs = {name: [] for name in self.outputs}
        for start in range(0, len(items), batch_size):
            encodings = self._tokenizer.encode_batch(items[start : start + batch_size])
            for name, array in zip(self.outputs, self.compute(self.feed(encodings)), strict=True):
                outputs[name].extend(_trimmed(array, encodings) if array.ndim == 3 else array)
        return outputs

    def tokens(self, items: Sequence[Item], *, batch_size: int) -> dict[str, F32]:
        """Return the rows of tokens of outputs [B, T, D] or [B * T, D], without padding: float32 [tokens, D] each.

        Of an output without a row for each token, such as relative positions, return all rows.
        """
        parts: dict[str, list[F32]] = {name: [] for name in self.outputs}
        for start in range(0, len(items), batch_size):
            feed = self.feed(self._tokenizer.encode_batch(items[start : start + batch_size]))
            is_token = feed["attention_mask"].astype(bool)
            for name, array in zip(self.outputs, self.compute(feed), strict=True):
                has_tokens = is_token.shape == array.shape[:2] or is_token.size == len(array)
                rows = array.reshape(-1, array.shape[-1])
                parts[name].append(rows[is_token.ravel()] if has_tokens else rows)
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def feed(self, encodings: Sequence[EncodedRow]) -> Feed:
        """Return the graph's inputs, int64 [B, T], for texts padded to one length."""
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        return {name: np.array(columns[name], dtype=np.int64) for name in self.inputs}

    def compute(self, feed: Feed) -> list[F32]:
        """Return the graph's outputs, in its order."""
        arrays: list[F32] = self._session.run(None, feed)
        return arrays


def _trimmed(states: F32, encodings: Sequence[EncodedRow]) -> list[F32]:
    """Return the token states without padding: a list of [T, D]."""
    return [rows[: sum(encoding.attention_mask)] for rows, encoding in zip(states, encodings, strict=True)]
