"""Sessions of ONNX Runtime on the graphs of the bundle, and batches to run them with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit import ON_CPU, PROVIDERS, bundle_folder, manifest
from texts import token_stream

VARIANTS = ("fp32",) if ON_CPU else ("fp32", "fp16", "packed", "int8")
"""Graphs to measure; `packed` is the fp16 graph that removes padding inside."""

_LENGTHS = (16, 64, 256)
_BATCH_TOKENS = (0,) if ON_CPU else (0, 4096, 16384, 65536)  # 0: one row

Batch = dict[str, NDArray[np.int64]]
"""Inputs of a graph by name, int64 [B, T] each."""


def graph_file(variant: str) -> Path:
    """Return the path of a variant's graph."""
    return bundle_folder("packed") / "fp16.onnx" if variant == "packed" else bundle_folder() / f"{variant}.onnx"


def open_graph(variant: str, options: dict[str, str] | None = None) -> Any:
    """Return a session of ONNX Runtime with the settings that Sluice uses, on the GPU.

    options  of the CUDA provider

    Raises RuntimeError when ONNX Runtime chose another provider.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    first, *fallback = PROVIDERS
    wanted = (first, options) if options and not ON_CPU else first
    session = ort.InferenceSession(str(graph_file(variant)), settings, providers=[wanted, *fallback])
    if session.get_providers()[0] != first:
        raise RuntimeError(f"ONNX Runtime opened {session.get_providers()}, expected {first}")
    return session


def shapes() -> list[tuple[int, int]]:
    """Return the batches to measure, as rows and tokens of a row."""
    lengths = [length for length in _LENGTHS if length <= manifest()["max_token_count"]]
    return [(max(1, tokens // length), length) for length in lengths for tokens in _BATCH_TOKENS]


def token_ids(rows: int, length: int) -> NDArray[np.int64]:
    """Return rows of tokens drawn from real texts, int64 [rows, length]."""
    return np.random.default_rng(rows * 1000 + length).choice(token_stream(), (rows, length))


def full_batch(session: Any, rows: int, length: int) -> Batch:
    """Return a batch without padding for a graph."""
    ids = token_ids(rows, length)
    return _batch(session, ids, np.ones_like(ids))


def padded_batch(session: Any, rows: Sequence[Sequence[int]]) -> Batch:
    """Return a batch of rows of token ids, padded to the longest, for a graph."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return _batch(session, ids, mask)


def _batch(session: Any, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Batch:
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {value.name: given[value.name] for value in session.get_inputs()}
