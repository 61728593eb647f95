"""Comparison of a graph with the reference model: accuracy, dependence on the batch, and speed.

Facts: dynamic int8 quantizes activations over the whole batch, so a text's vector depends on the other texts of its
batch (cosine 0.964 on MiniLM between alone and batched). The cosine to the reference alone does not show that.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from export.calibration_texts import Sample
from export.parity.onnx_runner import Feed, Graph
from export.reference.model import Outputs
from services.core.arrays import F32
from services.inference.bundle import Parity, Variant, VariantName

MIN_COSINE: Final = 0.9999
MAX_SCORE_DIFFERENCE: Final = 1e-3
MIN_BATCH_INVARIANCE: Final = 0.9999
MIN_RANK_AGREEMENT: Final = 0.95
# Above this median cosine between texts, a high cosine to the reference says little about a graph.
DISTINCT_COSINE: Final = 0.9
_NEAREST: Final = 10
_BATCH: Final = 16
# Logits of 16 x 512 tokens for a vocabulary of 30,000 would be a gigabyte.
_SPARSE_BATCH: Final = 2
_ALONE: Final = 18
_ROUNDS: Final = 5


@dataclass(frozen=True)
class Reference:
    """A sample and the reference model's outputs for it."""

    sample: Sample
    outputs: Outputs
    relevant_label: int


def measure(graph: Graph, reference: Reference) -> Parity:
    """Measure how close a graph is to the reference, and how much its outputs depend on the batch."""
    sample = reference.sample
    batched = graph.run(sample.items, batch_size=_SPARSE_BATCH if "sparse" in graph.outputs else _BATCH)
    some = sample.items[:: -(-len(sample.items) // _ALONE)]  # of all lengths
    alone, together = (graph.run(some, batch_size=size) for size in (1, len(some)))
    agreement = rank_agreement(
        scores(reference.outputs, sample, reference.relevant_label), scores(batched, sample, reference.relevant_label)
    )
    if sample.is_pairs:
        return Parity(
            max_score_difference=max_difference(reference.outputs["logits"], batched["logits"]),
            rank_agreement=agreement,
            batch_invariance=1 - max_difference(alone["logits"], together["logits"]),
        )
    return Parity(
        min_cosine=min_cosine(reference.outputs, batched),
        rank_agreement=agreement,
        batch_invariance=min_cosine(alone, together),
    )


def min_cosine(expected: Outputs, found: Outputs) -> float:
    """Return the lowest cosine of two rows at the same position, over all outputs that were found, at most 1.

    Raises ValueError if shapes differ. A row that is not finite counts as -1, because a broken graph agrees with
    nothing.
    """
    return min(_min_row_cosine(expected[name], rows) for name, rows in found.items())


def _min_row_cosine(expected: Sequence[F32], found: Sequence[F32]) -> float:
    a, b = (np.concatenate([np.atleast_2d(rows) for rows in part]).astype(np.float64) for part in (expected, found))
    if a.shape != b.shape:
        raise ValueError(f"expected rows of shape {a.shape}, found {b.shape}")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two rows without any term are equal; a row with terms and one without differ as much as possible.
    absent = np.where((a == 0).all(axis=1) & (b == 0).all(axis=1), 1.0, -1.0)
    cosines = np.divide((a * b).sum(axis=1), norms, out=absent, where=norms > 0)
    return float(np.clip(np.nan_to_num(cosines, nan=-1.0), -1, 1).min())


def max_difference(expected: Sequence[F32], found: Sequence[F32]) -> float:
    """Return the largest absolute difference of two scores at the same position; infinite if one is not a number."""
    with np.errstate(invalid="ignore"):  # the difference of two infinities
        difference = float(np.abs(np.stack(expected).astype(np.float64) - np.stack(found)).max())
    return difference if np.isfinite(difference) else float("inf")


def scores(outputs: Outputs, sample: Sample, relevant_label: int) -> F32:
    """Return the score of each document for each query, float32 [queries, documents]."""
    if sample.is_lists:
        return np.stack(outputs["logits"])
    if sample.is_pairs:
        logits = np.stack(outputs["logits"])[:, relevant_label]
        return logits.reshape(len(sample.queries), len(sample.documents))
    count = len(sample.queries)
    if "dense" in outputs:
        vectors = np.stack(outputs["dense"])
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    elif "sparse" in outputs:
        vectors = np.stack(outputs["sparse"])
    else:
        return _maxsim(outputs["multi_vector"][:count], outputs["multi_vector"][count:])
    result: F32 = vectors[:count] @ vectors[count:].T
    return result


def median_cosine(outputs: Outputs) -> float:
    """Return the median cosine of the dense vectors of two different texts; 0 without dense vectors."""
    if "dense" not in outputs:
        return 0.0
    vectors = np.unique(np.stack(outputs["dense"]), axis=0)  # equal texts have equal vectors
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if len(vectors) < 2:
        return 1.0
    return float(np.median((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]))


def _maxsim(queries: Sequence[F32], documents: Sequence[F32]) -> F32:
    """Return the late-interaction score of each document for each query, float32 [queries, documents]."""
    tokens = np.concatenate(documents).T
    starts = np.cumsum([0, *(len(rows) for rows in documents[:-1])])
    return np.stack([np.maximum.reduceat(query @ tokens, starts, axis=1).sum(axis=0) for query in queries])


def rank_agreement(expected: F32, found: F32) -> float:
    """Return the mean share of each query's 10 best documents that both matrices [queries, documents] agree on."""
    best, also = (np.argsort(-part, axis=1, kind="stable")[:, :_NEAREST] for part in (expected, found))
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(best.tolist(), also.tolist(), strict=True)]))


def relative_speeds(graphs: Mapping[VariantName, Graph], feeds: Sequence[Feed]) -> dict[VariantName, float]:
    """Return the throughput of each graph ÷ that of fp32, on the same batches, best of alternating rounds."""
    if len(graphs) == 1:
        return dict.fromkeys(graphs, 1.0)
    best: dict[VariantName, float] = dict.fromkeys(graphs, float("inf"))
    for _ in range(1 + _ROUNDS):  # the first round warms up; taking the best ignores it
        for name, graph in graphs.items():
            best[name] = min(best[name], _seconds(graph, feeds))
    return {name: best["fp32"] / seconds for name, seconds in best.items()}


def _seconds(graph: Graph, feeds: Sequence[Feed]) -> float:
    start = time.perf_counter()
    for feed in feeds:
        graph.compute(feed)
    return time.perf_counter() - start


def deviation(parity: Parity) -> str | None:
    """Return how a graph's outputs differ from the reference's by more than rounding; None if they do not.

    fp32 must not. An output that depends on the padding of its batch differs from itself, not only from the reference.
    """
    least = MIN_BATCH_INVARIANCE if parity.min_cosine is not None else 1 - MAX_SCORE_DIFFERENCE
    if not parity.batch_invariance >= least:
        return (
            "expected the output for a text to be the same alone and in a batch, found an agreement of "
            f"{parity.batch_invariance:.4f} (at least {least}): the model does not mask padding, and servers batch the "
            "texts of several callers"
        )
    if parity.min_cosine is not None and not parity.min_cosine >= MIN_COSINE:
        return (
            f"expected the vectors of the reference model, found a cosine of {parity.min_cosine:.4f} (at least "
            f"{MIN_COSINE})"
        )
    if parity.min_cosine is None and not (parity.max_score_difference or 0) <= MAX_SCORE_DIFFERENCE:
        return (
            "expected the scores of the reference model, found a difference of "
            f"{parity.max_score_difference:.4g} (at most {MAX_SCORE_DIFFERENCE})"
        )
    return None


def may_be_default(name: VariantName, parity: Parity) -> bool:
    """Return whether a variant may be the default: it ranks like the reference and does not depend on the batch.

    fp16 is for GPUs, where its speed was not measured: it is used only on request.
    """
    if name == "fp32":
        return True
    is_faithful = parity.rank_agreement >= MIN_RANK_AGREEMENT and parity.batch_invariance >= MIN_BATCH_INVARIANCE
    return name == "int8" and is_faithful


def choose(variants: Mapping[VariantName, Variant]) -> VariantName:
    """Return the fastest variant that may be the default; fp32 always may."""
    allowed = [name for name, variant in variants.items() if may_be_default(name, variant.parity)]
    return max(allowed, key=lambda name: variants[name].relative_speed)


def tolerance(parity: Parity) -> float:
    """Return the distance from golden.npz that a server accepts: at least twice what was measured here."""
    if parity.min_cosine is not None:
        return max(1 - MIN_COSINE, 2 * (1 - parity.min_cosine))
    return max(MAX_SCORE_DIFFERENCE, 2 * (parity.max_score_difference or 0))


def report(variants: Mapping[VariantName, Variant]) -> list[str]:
    """Return the lines of a table with one row per variant."""
    lines = [
        f"{'variant':8} {'drift':>10} {'rank agreement':>15} {'batch invariance':>17} {'speed':>6}  may be default"
    ]
    for name, variant in variants.items():
        parity = variant.parity
        drift = parity.max_score_difference if parity.min_cosine is None else 1 - parity.min_cosine
        lines.append(
            f"{name:8} {drift:10.2e} {parity.rank_agreement:15.3f} {parity.batch_invariance:17.6f} "
            f"{variant.relative_speed:6.2f}  {'yes' if may_be_default(name, parity) else 'no'}"
        )
    return lines
