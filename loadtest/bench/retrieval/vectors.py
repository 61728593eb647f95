"""Real embeddings for the retrieval benchmarks, extended to any number by a recorded perturbation.

The texts of a judged collection are embedded once and cached in a file beside the figures. Each further vector is a
random real one plus Gaussian noise of NOISE times its length, scaled to unit length: near to its original, as passages
on one subject are, and never equal to it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sluice.cli.console import err

from loadtest.bench.in_process import InProcess
from loadtest.bench.setup import Setup

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

NOISE: Final = 0.5
QUERIES: Final = 500
_QUICK_PASSAGES: Final = 400
_QUICK_QUERIES: Final = 40
_ROWS: Final = 32


@dataclass(frozen=True)
class Vectors:
    """Documents float32[N, D] and queries float32[Q, D], unit length; `real` of the documents are of real text."""

    documents: F32
    queries: F32
    real: int

    @classmethod
    def of(cls, plan: Setup, count: int) -> "Vectors":
        """Return the documents and queries of a benchmark's collection. Raises CommandFailed."""
        passages, queries = _texts(plan)
        path = plan.out / f"vectors-{_key(plan, 'dense', passages, queries)}.npz"
        if not path.is_file():
            encoder = InProcess(plan.bundle, plan.variant, plan.threads, ["dense"])
            err.print(f"  embedding {len(passages)} passages once, cached in {path}", style="dim")
            found = [np.array(encode(encoder, texts)) for texts in (passages, queries)]
            _save(path, documents=found[0], queries=found[1])
        with np.load(path) as file:
            real, asked = file["documents"], file["queries"]
        return cls(grown(real, count), asked, min(len(real), count))

    def record(self) -> dict[str, Any]:
        """Describe the vectors, for the figures."""
        count, dimensions = self.documents.shape
        return {"documents": count, "real_documents": self.real, "dimensions": dimensions, "noise": NOISE}

    def nearest(self, k: int, among: I64 | None = None) -> list[set[int]]:
        """Return the true k nearest documents of each query, among all or some documents."""
        chosen = np.arange(len(self.documents)) if among is None else among
        found: list[set[int]] = []
        for query in self.queries:
            scores = (self.documents if among is None else self.documents[among]) @ query
            best = np.argpartition(-scores, min(k, len(scores)) - 1)[:k]
            found.append(set(chosen[best].tolist()))
        return found


@dataclass(frozen=True)
class TokenVectors:
    """Token vectors of real text, float16 [T, D] for each document and float32 [Q, D] for each query."""

    documents: list[NDArray[np.float16]]
    queries: list[F32]

    @classmethod
    def of(cls, plan: Setup, count: int) -> "TokenVectors":
        """Return those of up to `count` documents. Raises CommandFailed."""
        passages, queries = _texts(plan)
        passages = passages[:count]
        path = plan.out / f"vectors-{_key(plan, 'multi_vector', passages, queries)}.npz"
        if not path.is_file():
            encoder = InProcess(plan.bundle, plan.variant, plan.threads, ["multi_vector"])
            err.print(f"  embedding the tokens of {len(passages)} passages once, cached in {path}", style="dim")
            both = [encode(encoder, texts) for texts in (passages, queries)]
            joined = [np.concatenate(tokens).astype(np.float16) for tokens in both]
            counts = [np.array([len(one) for one in tokens]) for tokens in both]
            _save(path, documents=joined[0], counts=counts[0], queries=joined[1], query_counts=counts[1])
        with np.load(path) as file:
            documents = np.split(file["documents"], np.cumsum(file["counts"])[:-1])
            asked = np.split(file["queries"].astype(np.float32), np.cumsum(file["query_counts"])[:-1])
        return cls(documents, asked)


def grown(real: F32, count: int, noise: float = NOISE, seed: int = 1) -> F32:
    """Return `count` vectors: the real ones, then perturbed copies."""
    chance = np.random.default_rng(seed)
    copies = max(0, count - len(real))
    result = np.empty((min(count, len(real)) + copies, real.shape[1]), dtype=np.float32)
    result[: len(real)] = real[:count]
    for start in range(len(real), len(result), 65_536):
        part = result[start : start + 65_536]
        chance.standard_normal(part.shape, dtype=np.float32, out=part)
        part *= np.float32(noise / np.sqrt(real.shape[1]))
        part += real[chance.integers(len(real), size=len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return result


def encode(encoder: InProcess, texts: Sequence[str]) -> list[F32]:
    """Return the encoder's output for each text: float32[D], or float32[tokens, D]."""
    rows = encoder.texts(texts)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    found: list[F32] = [np.empty(0, dtype=np.float32)] * len(rows)
    for start in range(0, len(order), _ROWS):
        places = order[start : start + _ROWS]
        output = encoder.output([rows[i] for i in places])
        for place, values in zip(places, output, strict=True):
            found[place] = values[: len(rows[place].ids)] if values.ndim == 2 else values
    return found


def _texts(plan: Setup) -> tuple[list[str], list[str]]:
    texts = plan.texts()
    passages, queries = list(texts.passages), list(texts.queries)[:QUERIES]
    return (passages[:_QUICK_PASSAGES], queries[:_QUICK_QUERIES]) if plan.quick else (passages, queries)


def _key(plan: Setup, output: str, passages: Sequence[str], queries: Sequence[str]) -> str:
    """Return a name that depends on everything the vectors are made from."""
    made = hashlib.sha256()
    for part in (Path(plan.bundle, "bundle.json").read_text(), plan.variant, output, *passages, "", *queries):
        made.update(part.encode() + b"\0")
    return f"{output}-{made.hexdigest()[:12]}"


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    np.savez(draft, allow_pickle=False, **arrays)
    draft.rename(path)
