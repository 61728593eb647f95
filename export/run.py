"""A bundle's graph run the way servers run it: the tokenizers library and ONNX Runtime, nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state
from tokenizers import Encoding, Tokenizer

from export.original import F32, Outputs
from export.sample import Item

# What ONNX Runtime raises; they have no common class of their own.
GRAPH_ERRORS: Final = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.NotImplemented,
    state.RuntimeException,
)

Feed = dict[str, NDArray[np.int64]]


class Graph:
    """One ONNX graph, a file or its bytes, with a tokenizer."""

    def __init__(self, model: Path | bytes, tokenizer: Tokenizer, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        # Threads that spin while they wait take the processor from those that work, where others work too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizer
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, items: Sequence[Item], *, batch_size: int) -> Outputs:
        """What the graph makes of the items, in batches of neighbours. Axes as in `Outputs`."""
        outputs: Outputs = {name: [] for name in self.outputs}
        for start in range(0, len(items), batch_size):
            encodings = self._tokenizer.encode_batch(list(items[start : start + batch_size]))
            for name, array in zip(self.outputs, self.compute(self.feed(encodings)), strict=True):
                outputs[name].extend(_trimmed(array, encodings) if array.ndim == 3 else array)
        return outputs

    def tokens(self, items: Sequence[Item], *, batch_size: int) -> dict[str, F32]:
        """Of outputs [B, T, D] the rows of all tokens, padding left out: float32 [tokens, D] each."""
        parts: dict[str, list[F32]] = {name: [] for name in self.outputs}
        for start in range(0, len(items), batch_size):
            feed = self.feed(self._tokenizer.encode_batch(list(items[start : start + batch_size])))
            is_token = feed["attention_mask"].astype(bool)
            for name, array in zip(self.outputs, self.compute(feed), strict=True):
                parts[name].append(array[is_token])
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def feed(self, encodings: Sequence[Encoding]) -> Feed:
        """Inputs of the graph, int64 [B, T], for texts padded to one length."""
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        return {name: np.array(columns[name], dtype=np.int64) for name in self.inputs}

    def compute(self, feed: Feed) -> list[F32]:
        """Outputs of the graph, in its order."""
        arrays: list[F32] = self._session.run(None, feed)
        return arrays


def _trimmed(states: F32, encodings: Sequence[Encoding]) -> list[F32]:
    """Token states without padding: a list of [T, D]."""
    return [rows[: sum(encoding.attention_mask)] for rows, encoding in zip(states, encodings, strict=True)]
