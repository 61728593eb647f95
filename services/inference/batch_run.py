"""The run of one batch in a thread, and the outputs of its rows."""

from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.session import Outputs, Session
from services.inference.tokenizer import Input

Output = dict[str, NDArray[Any]]
"""One row's part of each wanted output, without batch axis and padding. Read-only, because callers share it.

    dense [D]   multi_vector [T, D], including special tokens   logits [L]
    sparse [K] weights, and with it sparse_indices int32 [K], ascending
"""


@dataclass(frozen=True)
class BatchResult:
    """The result of a batch."""

    outputs: list[Output]
    seconds: float
    """Seconds that the model took."""
    ended: float
    """Time at which the outputs were ready, on the monotonic clock."""


def run_batch(session: Session, inputs: list[Input], wanted: list[tuple[str, ...]], alone: bool) -> BatchResult:
    """Run a batch and return the wanted outputs of each row."""
    started = perf_counter()
    outputs = session.run(inputs, sorted({name for names in wanted for name in names}), alone=alone)
    seconds = perf_counter() - started
    parts = [
        _part(outputs, names, position, len(row.ids))
        for position, (row, names) in enumerate(zip(inputs, wanted, strict=True))
    ]
    return BatchResult(parts, seconds, monotonic())


def _part(outputs: Outputs, names: tuple[str, ...], position: int, length: int) -> Output:
    """Return one row's outputs, copied, so that caching them does not keep the whole batch in memory."""
    parts: Output = {}
    for name in names:
        row = outputs[name][position]
        if name == "sparse":
            parts["sparse_indices"] = np.flatnonzero(row).astype(np.int32)
            parts[name] = row[parts["sparse_indices"]]
        else:
            parts[name] = (row[:length] if name == "multi_vector" else row).copy()
    for part in parts.values():
        part.setflags(write=False)
    return parts
