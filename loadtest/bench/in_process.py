"""A bundle's graph run directly: rows sorted by length, batches on all threads, no queue, no network.

It is the upper limit of a server if batching, scheduling, tokenization and transport were free.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, cast

import numpy as np
import tokenizers
from numpy.typing import NDArray

from services.inference.bundle import TOKENIZER, VariantName, open_bundle
from services.inference.session import Session
from services.inference.tokenizer import Input, Tokenizer

# Batch sizes to try, in tokens; the fastest is the limit.
_BATCH_TOKENS: Final = (512, 1024, 2048, 4096)
_SAMPLE_ROWS: Final = 128


@dataclass(frozen=True)
class Pass:
    """One pass over rows."""

    rows: int
    tokens: int
    """Tokens without padding."""
    seconds: float


class InProcess:
    """A graph of a bundle with as many threads as a server has."""

    def __init__(self, folder: Path, variant: str, threads: int, outputs: Sequence[str] = ()) -> None:
        bundle = open_bundle(folder)
        self.manifest = bundle.manifest
        self._session = Session(bundle, cast(VariantName, variant), threads=threads)
        self._tokenizer = Tokenizer(folder / TOKENIZER, max_token_count=self.manifest.max_token_count)
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        pairs = self.manifest.task == "cross_encoder"
        self._outputs = list(outputs) or (["logits"] if pairs else ["dense"])
        self.batch_tokens = 0

    def texts(self, texts: Sequence[str]) -> list[Input]:
        """Return rows of single texts."""
        return [self._tokenizer.single(ids, "end") for ids in self._tokenizer.tokenize(texts)]

    def pairs(self, query: str, documents: Sequence[str]) -> list[Input]:
        """Return rows of a query with each document."""
        query_ids, *others = self._tokenizer.tokenize([query, *documents])
        return [self._tokenizer.pair(query_ids, ids, "end") for ids in others]

    def alone(self, row: Input) -> float:
        """Return the seconds of one row, on all threads."""
        started = perf_counter()
        self._session.run([row], self._outputs, alone=True)
        return perf_counter() - started

    def output(self, rows: Sequence[Input]) -> NDArray[np.float32]:
        """Return the first output for a batch, on one thread."""
        return self._session.run(rows, self._outputs[:1])[self._outputs[0]]

    def choose(self, rows: Sequence[Input]) -> float:
        """Choose the batch size that is fastest on a sample, and return its tokens per second."""
        sample = list(rows[:_SAMPLE_ROWS])
        self.run(sample[:16])  # allocates memory
        speeds = {}
        for size in _BATCH_TOKENS:
            self.batch_tokens = size
            done = self.run(sample)
            speeds[size] = done.tokens / done.seconds
        self.batch_tokens = max(speeds, key=lambda size: speeds[size])
        return speeds[self.batch_tokens]

    def run(self, rows: Sequence[Input]) -> Pass:
        """Run one pass over rows, in batches of rows of similar length, the longest first."""
        batches = sorted_batches(rows, self.batch_tokens or _BATCH_TOKENS[1], self._threads)
        started = perf_counter()
        for _ in self._pool.map(lambda batch: self._session.run(batch, self._outputs), batches):
            pass
        seconds = perf_counter() - started
        return Pass(len(rows), sum(len(row.ids) for row in rows), seconds)


def sorted_batches(rows: Sequence[Input], batch_tokens: int, threads: int) -> list[list[Input]]:
    """Return batches of rows sorted by length, longest first so that threads end together, limited in tokens."""
    batches: list[list[Input]] = []
    most_rows = max(1, len(rows) // threads)
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        last = batches[-1] if batches else []
        if not last or len(last[0].ids) * (len(last) + 1) > batch_tokens or len(last) >= most_rows:
            batches.append([row])
        else:
            last.append(row)
    return batches


def gemm_flops(seconds: float = 1.0) -> float:
    """Return the best floating point operations per second of float32 matrix products on all BLAS threads."""
    left = np.ones((1024, 1536), dtype=np.float32)
    right = np.ones((1536, 1024), dtype=np.float32)
    flops, best, end = 2.0 * 1024 * 1024 * 1536, 0.0, perf_counter() + seconds
    while perf_counter() < end:
        started = perf_counter()
        np.dot(left, right)
        best = max(best, flops / (perf_counter() - started))
    return best


def flops_per_token(folder: Path) -> float | None:
    """Return the floating point operations per token: two per weight of fp32.onnx without word embeddings.

    None for a cross-encoder, whose manifest does not state the width of the embeddings.
    """
    bundle = open_bundle(folder)
    if not bundle.manifest.dimensions:
        return None
    weights = (folder / bundle.manifest.variants["fp32"].file).stat().st_size / 4
    vocabulary = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER)).get_vocab_size()
    return float(2 * (weights - vocabulary * bundle.manifest.dimensions))
